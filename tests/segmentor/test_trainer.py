"""Training a segmentor: taken up exactly, the losses of a whole step, bad images, and that it learns."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from common.errors import UserError
from pipeline.stages.held_out import HeldOut
from segmentor.networks import build
from segmentor.prediction import probabilities
from segmentor.samples import read_pair
from segmentor.settings import InferenceSettings, Views
from segmentor.trainer import Job, optimizer_for, start, train, validate
from segmentor.weights import read_state
from tests.segmentor.small import ALONE, LABELS, settings, small_job, small_network, small_state, write_scenes
from tests.training.small import in_processes
from training.board import read_log
from training.pairs import Pair
from training.ranks import Ranks
from training.state import State


@pytest.mark.parametrize("loss", ["ce", "balanced"])
def test_two_processes_learn_what_one_does(tmp_path: Path, loss: str) -> None:
    """The same images in two halves: weights after two steps, and the losses that are logged."""
    pairs = write_scenes(tmp_path, 5)
    options: dict[str, Any] = {"max_iters": 2, "loss": loss, "optimizer": "sgd", "lr": 0.1}
    alone = small_job(tmp_path, pairs, "alone", batch=4, **options)
    state = small_state(alone)
    train(alone, state, ALONE)

    def work(ranks: Ranks) -> None:
        job = small_job(tmp_path, pairs, "shared", batch=2, ranks=2, **options)
        own = small_state(job, ranks)
        train(job, own, ranks)
        for name, value in state.network.state_dict().items():
            torch.testing.assert_close(own.network.state_dict()[name], value, atol=1e-5, rtol=1e-4)

    in_processes(2, work)
    before, after = (each.state_dict()["head.weight"] for each in (small_network(), state.network))
    assert not torch.allclose(before, after, atol=1e-3)
    for one, two in zip(read_log(tmp_path / "alone"), read_log(tmp_path / "shared")):
        assert one == pytest.approx(two, rel=1e-4)
    assert (tmp_path / "shared" / "weights.safetensors").is_file()


def test_bad_images_are_told_and_cost_nothing_else(tmp_path: Path) -> None:
    pairs = write_scenes(tmp_path, 4)
    pairs[2].image.write_bytes(b"broken")
    job = small_job(tmp_path, pairs, max_iters=4)
    report = train(job, small_state(job), ALONE)
    assert list(report.failures) == ["s2"] and "s2.png" in report.failures["s2"]
    assert all(np.isfinite(line["loss"]) for line in read_log(job.out))


# --- optimisers -----------------------------------------------------------------------------------


def by_name(name: str, head_factor: float) -> dict[str, tuple[float, float]]:
    """(rate, decay) of every parameter at a schedule's rate of 0.5."""
    network = small_network()
    groups = optimizer_for(network, settings(optimizer=name, weight_decay=0.01, head_factor=head_factor)).param_groups
    values = {id(p): (0.5 * group["factor"], group["weight_decay"]) for group in groups for p in group["params"]}
    return {key: values[id(weight)] for key, weight in network.named_parameters()}


def test_adamw_leaves_norms_alone_and_speeds_up_the_heads() -> None:
    assert by_name("adamw", 10) == {
        "body.encoder.0.weight": (0.5, 0.01),
        "body.encoder.0.bias": (0.5, 0.01),
        "body.encoder.1.weight": (0.5, 0.0),
        "body.encoder.1.bias": (0.5, 0.0),
        "body.decode_head.weight": (5.0, 0.01),
        "body.decode_head.bias": (5.0, 0.01),
        "head.weight": (5.0, 0.01),
        "head.bias": (5.0, 0.01),
    }
    assert set(by_name("sgd", 1.0).values()) == {(0.5, 0.01)}


# --- learning -------------------------------------------------------------------------------------


def miou(state: State, pairs: list[Pair]) -> float:
    """Mean IoU by hand."""
    network = state.network.eval()
    shown = []
    for pair in pairs:
        image, labels = read_pair(pair, len(LABELS))
        shown.append((probabilities(network, image, InferenceSettings("imagenet")).argmax(0), labels))
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
        HeldOut([pair.id for pair in pairs], tmp_path / "images", tmp_path / "masks"),
        validate_every=60,
    )
    torch.manual_seed(0)
    state = start(job, build("segformer-tiny", 3), ALONE)
    report = train(job, state, ALONE)
    losses = [line["loss"] for line in read_log(tmp_path) if "loss" in line]
    assert np.mean(losses[-5:]) < 0.2 * np.mean(losses[:5])
    assert report.miou == pytest.approx(miou(state, pairs), abs=1e-9)
    assert report.miou is not None and report.miou > 0.85


def test_validation_scores_the_running_mean_and_writes_it(tmp_path: Path) -> None:
    pairs = write_scenes(tmp_path, 4)
    held_out = HeldOut(["s0", "s1", "missing"], tmp_path / "images", tmp_path / "masks")
    job = small_job(tmp_path, pairs, max_iters=4, ema=0.5, held_out=held_out)
    state = small_state(job)
    report = train(job, state, ALONE)
    assert state.average is not None and list(report.failures) == ["missing"]
    again, _ = validate(state.result.eval(), held_out, 3, InferenceSettings("imagenet"), ALONE)
    assert again.miou == report.miou == read_log(job.out)[-1]["miou"]
    with pytest.raises(UserError, match="unknown here"):  # the small network has no name in the product
        read_state(job.out / "weights.safetensors")
    written = load_file(job.out / "weights.safetensors")["head.weight"]
    assert written.equal(state.result.state_dict()["head.weight"])
    assert not written.equal(state.network.state_dict()["head.weight"])
