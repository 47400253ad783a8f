"""Training a MaskFormer: taken up exactly, the same on two ranks, what learns, bad images, unseen classes."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dataset.mask_png import read_mask
from dataset.spec import IGNORE_INDEX
from pipeline.stages.held_out import HeldOut
from tests.training.small import ALONE, in_processes
from tests.zsseg.small import small_maskformer
from tests.zsseg.training.small import SMALL, begun, scenes_spec, small_job
from training.board import read_log
from training.ranks import Ranks
from training.state import State
from zsseg.checkpoint import read_checkpoint
from zsseg.maskformer import MaskFormer
from zsseg.sizes import NETWORKS
from zsseg.training.losses import NOTHING
from zsseg.training.optimizer import optimizer_for
from zsseg.training.samples import label_table
from zsseg.training.trainer import network_alone, start, train


@pytest.fixture(autouse=True)
def small_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(NETWORKS, "tiny", SMALL)  # type: ignore[arg-type]


def test_a_run_that_dies_goes_on_to_the_same_losses_and_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = small_job(tmp_path, "whole", ema=0.9)
    train(whole, begun(whole), ALONE)
    calls, forward = [0], MaskFormer.forward

    def dying(self: MaskFormer, *given: torch.Tensor) -> object:
        calls[0] += 1
        if calls[0] == 4:
            raise MemoryError
        return forward(self, *given)

    broken = small_job(tmp_path, "broken", ema=0.9, save_every=2)
    with monkeypatch.context() as patched:
        patched.setattr(MaskFormer, "forward", dying)
        with pytest.raises(MemoryError):
            train(broken, begun(broken), ALONE)
    assert not (broken.out / "weights.safetensors").exists()
    again = begun(broken)
    assert again.iteration == 2
    train(broken, again, ALONE)
    assert read_log(broken.out) == read_log(whole.out) and len(read_log(whole.out)) == 4
    names = ("weights.safetensors", "checkpoints/iteration_00000004.pt")
    one, two = ((job.out / names[0]).read_bytes() for job in (whole, broken))
    assert one == two
    checkpoint = read_checkpoint(whole.out / names[0])
    assert checkpoint.about == whole.about(4) and checkpoint.about.names == ("red", "blue")


def without_dropout(state: State) -> State:
    """It is drawn anew for each rank."""
    for layer in state.network.modules():
        if isinstance(layer, torch.nn.Dropout):
            layer.p = 0.0
        elif isinstance(layer, torch.nn.MultiheadAttention):
            layer.dropout = 0.0
    return state


def test_two_processes_learn_what_one_does(tmp_path: Path) -> None:
    """Masks are counted over all ranks; the loss of the classes is a mean of each rank's, so it is left out of it."""
    alone = small_job(tmp_path, "alone", max_iters=2, batch=4)
    train(alone, without_dropout(begun(alone)), ALONE)
    shared = small_job(tmp_path, "shared", max_iters=2, batch=2, ranks=2)  # both would write its files at once

    def work(ranks: Ranks) -> None:
        train(shared, without_dropout(begun(shared, ranks)), ranks)

    in_processes(2, work)
    one, two = (read_log(tmp_path / name)[0] for name in ("alone", "shared"))
    for name in ("loss_mask", "loss_dice", "loss_mask_0", "loss_dice_0"):
        assert one[name] == pytest.approx(two[name], rel=1e-4)
    assert one["loss_ce"] == pytest.approx(two["loss_ce"], rel=0.05)


def test_a_bad_image_costs_only_itself_and_all_is_scored(tmp_path: Path) -> None:
    job = small_job(tmp_path, held_out=HeldOut(["s1", "s2"], tmp_path / "images", tmp_path / "masks"))
    job.pairs[2].image.write_bytes(b"broken")
    report = train(job, begun(job), ALONE)
    assert list(report.failures) == ["s2"] and "s2.png" in report.failures["s2"]
    assert report.scores is not None and report.scores.seen is not None and report.scores.unseen is None
    assert read_log(job.out)[-1]["miou_seen"] == report.scores.seen


def test_nothing_tells_where_unseen_classes_are(tmp_path: Path) -> None:
    spec = scenes_spec(tmp_path, unseen=(0,))
    assert spec.seen == (1,)
    table = label_table(spec, spec.seen)
    assert table[2] == 0 and (np.delete(table, 2) == IGNORE_INDEX).all()
    table = label_table(spec, spec.seen, NOTHING)  # where they are ignored, the background is told
    assert table[[0, 2]].tolist() == [NOTHING, 0] and (np.delete(table, [0, 2]) == IGNORE_INDEX).all()


def test_the_weight_of_classes_and_the_factor_of_cosines_are_the_runs_own(tmp_path: Path) -> None:
    heavy = small_job(tmp_path, max_iters=1, class_weight=7.0)
    state = begun(heavy)
    assert isinstance(state.network, MaskFormer) and state.network.criterion.matcher.cost_class == 7
    train(heavy, state, ALONE)
    (row,) = read_log(heavy.out)
    of_classes, focal, dice = (row[name] + row[f"{name}_0"] for name in ("loss_ce", "loss_mask", "loss_dice"))
    assert row["loss"] == pytest.approx(7 * of_classes + 20 * focal + dice, rel=1e-4)
    soft = small_job(tmp_path, "soft", logit_scale=25.0).settings.sizes
    images, words = torch.randn(1, 3, 64, 64), torch.eye(2, 16)
    usual, softer = (MaskFormer(sizes).eval() for sizes in (heavy.settings.sizes, soft))
    softer.load_state_dict(usual.state_dict())
    torch.testing.assert_close(4 * softer(images, words).class_logits, usual(images, words).class_logits)


def test_hidden_pixels_leave_the_losses_where_they_are_ignored(tmp_path: Path) -> None:
    for hidden in ("ignored", "outside"):
        job = small_job(tmp_path, hidden, max_iters=1, hidden=hidden)
        for pair in job.pairs:
            assert pair.mask is not None
            values = read_mask(pair.mask).copy()
            values[len(values) // 2 :] = IGNORE_INDEX
            Image.fromarray(values).save(pair.mask)
        train(job, begun(job), ALONE)
    ignored, outside = (read_log(tmp_path / name)[0] for name in ("ignored", "outside"))
    assert ignored["loss_mask"] < outside["loss_mask"] and ignored["loss_dice"] < outside["loss_dice"]


def test_the_background_is_never_ignored(tmp_path: Path) -> None:
    """In masks that hide nothing, ignoring what is hidden changes nothing."""
    for hidden in ("ignored", "outside"):
        job = small_job(tmp_path, hidden, max_iters=1, hidden=hidden)  # its crops are never padded
        for pair in job.pairs:
            assert pair.mask is not None
            values = read_mask(pair.mask)
            Image.fromarray(np.where(values == IGNORE_INDEX, 0, values).astype(np.uint8)).save(pair.mask)
        train(job, begun(job), ALONE)
    ignored, outside = (read_log(tmp_path / name)[0] for name in ("ignored", "outside"))
    assert ignored["loss_mask"] == pytest.approx(outside["loss_mask"], rel=1e-5)
    assert ignored["loss_dice"] == pytest.approx(outside["loss_dice"], rel=1e-5)


def test_what_gets_no_gradient_does_not_learn(tmp_path: Path) -> None:
    prompts = {"prefix_prompt": torch.ones(4, 16), "start_signal": torch.zeros(1, 16)}
    network = small_maskformer(prompts=prompts, region_prompts=prompts)
    job = small_job(tmp_path, max_iters=1)
    state = start(job, network, ALONE)
    named = dict(network.named_parameters())
    frozen = [name for name, weight in named.items() if not weight.requires_grad]
    assert sorted(frozen) == [
        "_region_clip_adapter.non_object_embedding",
        "_region_clip_adapter.prompt_learner.prefix_prompt",
        "clip_adapter.prompt_learner.prefix_prompt",
    ]
    before = {name: weight.clone() for name, weight in named.items()}
    train(job, state, ALONE)
    still = {name for name, weight in named.items() if weight.equal(before[name])}
    assert still >= set(frozen) and "clip_adapter.non_object_embedding" not in still and len(still) < len(named) / 4


def test_rates_and_decays_of_a_backbone_that_starts_from_nothing() -> None:
    network = small_maskformer()
    groups = optimizer_for(network, backbone_factor=0.5, weight_decay=0.2).param_groups
    found = {id(weight): (group["factor"], group["weight_decay"]) for group in groups for weight in group["params"]}
    named = dict(network.named_parameters())
    assert found[id(named["backbone.res3.0.conv1.weight"])] == (0.5, 0.2)
    assert found[id(named["backbone.res3.0.conv1.norm.weight"])] == (0.5, 0.0)
    assert found[id(named["sem_seg_head.predictor.input_proj.bias"])] == (1.0, 0.2)
    assert found[id(named["sem_seg_head.predictor.query_embed.weight"])] == (1.0, 0.0)


@pytest.mark.slow
def test_it_learns_four_scenes_by_heart(tmp_path: Path) -> None:
    held_out = HeldOut([f"s{index}" for index in range(4)], tmp_path / "images", tmp_path / "masks")
    more = {"max_iters": 150, "batch": 4, "lr": 3e-3, "backbone_lr": 1.0, "clip_norm": 1.0, "sides": (64,), "crop": 64}
    job = small_job(tmp_path, held_out=held_out, validate_every=150, short=64, longest=96, colours=False, **more)
    report = train(job, begun(job), ALONE)
    assert report.scores is not None and (report.scores.seen or 0) > 0.8
    state = begun(job)
    image = np.full((40, 50, 3), (90, 160, 90), np.uint8)
    image[10:30, 20:40] = (200, 40, 40)
    labels = network_alone(state.network.eval(), job.spec, job.every, 64, 96)(image)  # type: ignore[arg-type]
    assert labels.shape == (40, 50) and labels[20, 30] == 1 and labels[2, 2] == 0
