"""The loop: interrupted runs that end like uninterrupted ones, accumulation, and that it learns."""

import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from common.errors import Terminated
from segmentor.augment import Views
from segmentor.board import read_log
from segmentor.label_sources import Source, masks
from segmentor.networks import build
from segmentor.prediction import Looks, probabilities
from segmentor.samples import Batch, Pair, read_pair
from segmentor.state import State, fresh_state, take_up
from segmentor.trainer import CHECKPOINTS, Job, forget, train
from segmentor.validation import Unseen, validate
from segmentor.weights import read_state
from tests.segmentor.small import ALONE, LABELS, settings, small_job, small_network, small_state, write_scenes


class Stop(Exception):
    """As if the machine went down."""


def ending_at(iteration: int, how: Any) -> Source:
    """Labels of the masks, until `how` happens."""

    def source(batch: Batch, now: int) -> torch.Tensor:
        if now == iteration:
            how()
        return masks(batch, now)

    return source


def crash() -> None:
    raise Stop


def same_state(one: State, two: State) -> bool:
    """Bit for bit: weights, optimizer, running mean."""
    first, second = (
        {
            **state.network.state_dict(),
            **({f"mean.{k}": v for k, v in state.average.weights.items()} if state.average else {}),
        }
        for state in (one, two)
    )
    moments = [
        [value for per in state.optimizer.state_dict()["state"].values() for value in per.values()]
        for state in (one, two)
    ]
    return (
        first.keys() == second.keys()
        and all(value.equal(second[name]) for name, value in first.items())
        and len(moments[0]) == len(moments[1]) > 0
        and all(torch.as_tensor(a).equal(torch.as_tensor(b)) for a, b in zip(*moments))
    )


OPTIONS: list[dict[str, Any]] = [
    {"optimizer": "adamw", "ema": 0.8, "warmup": 3},
    {"optimizer": "sgd", "accumulate": 2, "loss": "balanced", "power": 0.9},
    {"precision": "bfloat16"},
]


@pytest.mark.parametrize("options", OPTIONS, ids=["adamw with mean", "sgd, accumulated", "bfloat16"])
def test_a_crashed_run_goes_on_as_if_nothing_had_happened(tmp_path: Path, options: dict[str, Any]) -> None:
    """Losses of every iteration, weights and optimizer are equal bit for bit."""
    pairs, more = write_scenes(tmp_path, 5), {"max_iters": 9, "save_every": 2, **options}
    whole = small_job(tmp_path, pairs, "whole", **more)
    uninterrupted = small_state(whole)
    train(whole, uninterrupted, ALONE)

    job = small_job(tmp_path, pairs, "broken", **more)
    with pytest.raises(Stop):
        train(job, small_state(job), ALONE, ending_at(5, crash))
    state = small_state(job)
    assert take_up(job.folder, state, job.settings) and state.iteration == 4
    train(job, state, ALONE)

    assert same_state(uninterrupted, state)
    logs = [read_log(out) for out in (whole.out, job.out)]
    assert logs[0] == logs[1] and [line["iteration"] for line in logs[0]] == list(range(1, 10))
    assert (whole.out / "weights.safetensors").read_bytes() == (job.out / "weights.safetensors").read_bytes()


def test_a_run_whose_dropout_is_taken_up(tmp_path: Path) -> None:
    """Chance inside the network belongs to the iteration too."""
    pairs = write_scenes(tmp_path, 4)

    def with_dropout(job: Job) -> State:
        network = small_network()
        network.head = torch.nn.Sequential(torch.nn.Dropout2d(0.5), network.head)
        return fresh_state(network, job.settings, ALONE.device)

    whole, job = (small_job(tmp_path, pairs, out, max_iters=6, save_every=3) for out in ("whole", "broken"))
    train(whole, with_dropout(whole), ALONE)
    with pytest.raises(Stop):
        train(job, with_dropout(job), ALONE, ending_at(4, crash))
    torch.manual_seed(99)
    state = with_dropout(job)
    take_up(job.folder, state, job.settings)
    train(job, state, ALONE)
    assert read_log(whole.out) == read_log(job.out)


@pytest.mark.parametrize(("number", "raised"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, Terminated)])
def test_a_signal_writes_a_checkpoint_first(tmp_path: Path, number: int, raised: type[BaseException]) -> None:
    job = small_job(tmp_path, write_scenes(tmp_path, 4), max_iters=30)
    before = signal.getsignal(number)
    with pytest.raises(raised) as found:
        train(job, small_state(job), ALONE, ending_at(4, lambda: os.kill(os.getpid(), number)))
    assert found.type is raised and signal.getsignal(number) is before
    state = small_state(job)
    assert take_up(job.folder, state, job.settings) and state.iteration == 5  # the step at work was finished
    assert len(read_log(job.out)) == 5


def test_accumulated_batches_are_one_step(tmp_path: Path) -> None:
    """Without a batch norm, which sees one batch only."""
    pairs, states = write_scenes(tmp_path, 4), []
    for out, batch, accumulate in (("one", 4, 1), ("two", 2, 2)):
        job = small_job(tmp_path, pairs, out, max_iters=2, batch=batch, accumulate=accumulate, optimizer="sgd", lr=0.1)
        network = small_network()
        network.body.encoder[1] = torch.nn.Identity()  # type: ignore[index,operator]
        states.append(fresh_state(network, job.settings, ALONE.device))
        train(job, states[-1], ALONE)
    for name, value in states[0].network.state_dict().items():
        torch.testing.assert_close(states[1].network.state_dict()[name], value, atol=1e-6, rtol=1e-5)


def test_float16_scales_its_gradients(tmp_path: Path) -> None:
    job = small_job(tmp_path, write_scenes(tmp_path, 4), max_iters=3, precision="float16")
    state = small_state(job)
    assert state.scaler.is_enabled() and state.scaler.get_scale() > 1
    train(job, state, ALONE)
    assert state.saved(job.settings)["scaler"]["_growth_tracker"] == 3  # no step was skipped


def test_bad_images_are_told_and_cost_nothing_else(tmp_path: Path) -> None:
    pairs = write_scenes(tmp_path, 4)
    pairs[2].image.write_bytes(b"broken")
    job = small_job(tmp_path, pairs, max_iters=4)
    report = train(job, small_state(job), ALONE)
    assert list(report.failures) == ["s2"] and "s2.png" in report.failures["s2"]
    assert all(np.isfinite(line["loss"]) for line in read_log(job.out))


def test_forget_leaves_what_is_not_its_own(tmp_path: Path) -> None:
    job = small_job(tmp_path, write_scenes(tmp_path, 4), max_iters=1)
    train(job, small_state(job), ALONE)
    (job.out / CHECKPOINTS / "mine.pt").write_text("x")
    (job.out / "notes.txt").write_text("x")
    forget(job.out)
    left = sorted(str(path.relative_to(job.out)) for path in job.out.rglob("*") if path.is_file())
    assert left == ["checkpoints/mine.pt", "notes.txt"]


# --- learning -------------------------------------------------------------------------------------


def miou(state: State, pairs: list[Pair]) -> float:
    """Mean IoU by hand."""
    network = state.network.eval()
    shown = []
    for pair in pairs:
        image, labels = read_pair(pair, len(LABELS))
        shown.append((probabilities(network, image, Looks("imagenet")).argmax(0), labels))
    ious = []
    for label in range(len(LABELS)):
        both = sum(int(((found == label) & (truth == label)).sum()) for found, truth in shown)
        any_of = sum(int((((found == label) & (truth != 255)) | (truth == label)).sum()) for found, truth in shown)
        ious.append(both / any_of)
    return float(np.mean(ious))


@pytest.mark.slow
def test_a_segformer_learns_four_scenes_by_heart(tmp_path: Path) -> None:
    pairs = write_scenes(tmp_path, 4)
    job = Job(
        settings(
            arch="segformer-tiny",
            images=4,
            max_iters=60,
            batch=4,
            lr=2e-3,
            warmup=5,
            views=Views(64, (1.0, 1.0), colours=False),
        ),
        pairs,
        tmp_path,
        Unseen([pair.id for pair in pairs], tmp_path / "images", tmp_path / "masks"),
        validate_every=60,
    )
    torch.manual_seed(0)
    state = fresh_state(build("segformer-tiny", 3), job.settings, ALONE.device)
    report = train(job, state, ALONE)
    losses = [line["loss"] for line in read_log(tmp_path) if "loss" in line]
    assert np.mean(losses[-5:]) < 0.2 * np.mean(losses[:5])
    assert report.miou == pytest.approx(miou(state, pairs), abs=1e-9)
    assert report.miou is not None and report.miou > 0.85


def test_validation_scores_the_running_mean_and_writes_it(tmp_path: Path) -> None:
    pairs = write_scenes(tmp_path, 4)
    unseen = Unseen(["s0", "s1", "missing"], tmp_path / "images", tmp_path / "masks")
    job = small_job(tmp_path, pairs, max_iters=4, ema=0.5, unseen=unseen)
    state = small_state(job)
    report = train(job, state, ALONE)
    assert state.average is not None and list(report.failures) == ["missing"]
    own = state.network.state_dict()["head.weight"].clone()
    with state.average.inside(state.network):
        again = validate(state.network, unseen, 3, "imagenet", ALONE)
    assert again.scores.miou == report.miou == read_log(job.out)[-1]["miou"]
    with pytest.raises(Exception, match="unknown here"):  # the small network has no name in the product
        read_state(job.out / "weights.safetensors")
    from safetensors.torch import load_file

    assert load_file(job.out / "weights.safetensors")["head.weight"].equal(state.average.weights["head.weight"])
    assert not own.equal(state.average.weights["head.weight"])
