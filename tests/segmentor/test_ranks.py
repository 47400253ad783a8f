"""Several processes: batch norms over all of them, and two steps that equal those of one process.

The processes are forked from this one, which has everything imported, and speak gloo.
"""

import multiprocessing
import os
import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from clip.load import Clip
from pipeline.methods.method import TextSet
from segmentor.label_sources import masks
from segmentor.maskclip_plus import Knowledge, source_for
from segmentor.ranks import Ranks, SharedBatchNorm, joined
from segmentor.samples import Batch
from segmentor.settings import Teaching, Words
from segmentor.trainer import train
from tests.segmentor.small import ALONE, small_job, small_network, small_state, write_scenes

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs processes that are forked")


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def in_processes(count: int, work: Callable[[Ranks], None]) -> None:
    """Call `work` in so many processes as torchrun would start them; any that fails fails the test."""
    context, port = multiprocessing.get_context("fork"), str(free_port())

    def begin(rank: int) -> None:
        told = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        os.environ.update({name: str(value) for name, value in told.items()})
        with joined("cpu") as ranks:
            assert (ranks.index, ranks.count) == (rank, count)
            work(ranks)

    processes = [context.Process(target=begin, args=(rank,)) for rank in range(count)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=100)
        process.kill()
    assert [process.exitcode for process in processes] == [0] * count


def test_batch_norms_see_all_ranks(tmp_path: Path) -> None:
    torch.manual_seed(0)
    values, wanted = torch.randn(4, 3, 5, 6) * 2 + 1, torch.randn(4, 3, 5, 6)
    plain = nn.BatchNorm2d(3)
    with torch.no_grad():
        plain.weight.copy_(torch.tensor([0.5, 1.0, 2.0]))
    start = {name: value.clone() for name, value in plain.state_dict().items()}
    given = values.clone().requires_grad_()
    found = plain(given)
    (found * wanted).sum().backward()

    def work(ranks: Ranks) -> None:
        norm, part = SharedBatchNorm(3), slice(ranks.index * 2, ranks.index * 2 + 2)
        norm.load_state_dict(start)
        own = values[part].clone().requires_grad_()
        out = norm(own)
        (out * wanted[part]).sum().backward()
        torch.testing.assert_close(out, found[part].detach(), atol=1e-5, rtol=1e-5)
        assert given.grad is not None and own.grad is not None
        torch.testing.assert_close(own.grad, given.grad[part], atol=1e-5, rtol=1e-4)
        for name, value in plain.state_dict().items():
            torch.testing.assert_close(norm.state_dict()[name], value, atol=1e-5, rtol=1e-5)
        weight = ranks.sum(norm.weight.grad)
        torch.testing.assert_close(weight, plain.weight.grad, atol=1e-4, rtol=1e-4)

    in_processes(2, work)


@pytest.mark.parametrize("loss", ["ce", "balanced"])
def test_two_processes_learn_what_one_does(tmp_path: Path, loss: str) -> None:
    """The same images in two halves: weights after two steps, and the losses that are told."""
    pairs = write_scenes(tmp_path, 5)
    options = {"max_iters": 2, "loss": loss, "optimizer": "sgd", "lr": 0.1}
    alone = small_job(tmp_path, pairs, "alone", batch=4, **options)
    state = small_state(alone)
    train(alone, state, ALONE)
    before = small_network().state_dict()

    def work(ranks: Ranks) -> None:
        torch.set_num_threads(1)
        job = small_job(tmp_path, pairs, "shared", batch=2, ranks=2, **options)
        own = small_state(job, ranks)
        train(job, own, ranks)
        for name, value in state.network.state_dict().items():
            torch.testing.assert_close(own.network.state_dict()[name], value, atol=1e-5, rtol=1e-4)

    in_processes(2, work)
    assert not torch.allclose(before["head.weight"], state.network.state_dict()["head.weight"], atol=1e-3)
    logs = [(tmp_path / out / "log.jsonl").read_text().splitlines() for out in ("alone", "shared")]
    assert len(logs[0]) == len(logs[1]) == 2
    for one, two in zip(*logs):
        assert float(one.split()[3].rstrip(",")) == pytest.approx(float(two.split()[3].rstrip(",")), rel=1e-4)
    assert (tmp_path / "shared" / "weights.safetensors").is_file()


def test_each_process_has_its_teacher(tmp_path: Path, tiny_clip: Clip) -> None:
    """Two processes, whose teachers label and who then label by themselves, learn what one does; no masks are there."""
    torch.manual_seed(1)
    vectors = nn.functional.normalize(torch.randn(3, 32), dim=1)
    knowledge = Knowledge(tiny_clip, TextSet(vectors[:2], vectors[2:]), Words())
    pairs = [replace(pair, mask=None) for pair in write_scenes(tmp_path, 5)]
    plan = Teaching(masks=False, hidden=(0, 1, 2), teacher="maskclip", guided=(1, 2), own_from=3)
    options = {"max_iters": 3, "optimizer": "sgd", "lr": 0.1, "teaching": plan}
    alone = small_job(tmp_path, pairs, "alone", batch=4, **options)
    state = small_state(alone)
    train(alone, state, ALONE, source_for(alone.settings, knowledge, state.network))

    def work(ranks: Ranks) -> None:
        torch.set_num_threads(1)
        job = small_job(tmp_path, pairs, "shared", batch=2, ranks=2, **options)
        own = small_state(job, ranks)
        train(job, own, ranks, source_for(job.settings, knowledge, own.network))
        for name, value in state.network.state_dict().items():
            torch.testing.assert_close(own.network.state_dict()[name], value, atol=1e-4, rtol=1e-3)

    in_processes(2, work)
    assert not torch.allclose(small_network().head.weight, state.network.head.weight, atol=1e-3)


def test_a_signal_to_one_process_ends_all_after_the_same_step(tmp_path: Path) -> None:
    """One checkpoint is written, and neither process waits for the other for ever."""
    pairs = write_scenes(tmp_path, 4)

    def work(ranks: Ranks) -> None:
        torch.set_num_threads(1)
        job = small_job(tmp_path, pairs, ranks=2, max_iters=50)

        def source(batch: Batch, iteration: int) -> torch.Tensor:
            if ranks.index == 1 and iteration == 3:
                os.kill(os.getpid(), 2)
            return masks(batch, iteration)

        with pytest.raises(KeyboardInterrupt):
            train(job, small_state(job, ranks), ranks, source)

    in_processes(2, work)
    assert [path.name for path in (tmp_path / "out" / "checkpoints").iterdir()] == ["iteration_00000004.pt"]


def test_torchrun_is_asked_for_when_its_names_are_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    from common.errors import UserError

    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="start several processes with torchrun"), joined("cpu"):
        pass
