"""MaskCLIP+: which labels are hidden, and training with a teacher; nothing hidden leaks, runs are taken up exactly."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from clip.load import Clip
from common.errors import UserError
from dataset.spec import DatasetSpec
from pipeline.methods.method import TextSet
from segmentor.maskclip_plus import ClipText, Source, fill_hidden, hidden_labels, masks, source_for, teacher_for
from segmentor.networks import Segmentor, TextHead
from segmentor.prediction import probabilities
from segmentor.samples import Batch, read_pair
from segmentor.settings import ClipIdentity, InferenceSettings, Teaching
from segmentor.trainer import Job, train
from tests.segmentor.small import ALONE, SmallBody, settings, small_job, small_state, write_scenes
from tests.tiny_resnet import tiny_resnet_clip
from training.board import read_log
from training.pairs import Pair
from training.state import State, resume

PLAIN = DatasetSpec("four", ("cat", "dog", "sea lion", "car"), (("x",),) * 4, (), False, 0.4, unseen=(2, 0))
MANY = replace(PLAIN, classes=tuple(f"c{index}" for index in range(255)), prompts=(("x",),) * 255)
WITH_BACKGROUND = replace(PLAIN, has_background=True, aliases=(("auto", "car"),))


@pytest.mark.parametrize(
    ("spec", "unlabelled", "wanted"),
    [
        (PLAIN, "all", (0, 1, 2, 3)),
        (WITH_BACKGROUND, "all", (1, 2, 3, 4)),
        (PLAIN, "unseen", (0, 2)),
        (WITH_BACKGROUND, "unseen", (1, 3)),
        (WITH_BACKGROUND, "sea lion, auto,car", (3, 4)),
        (WITH_BACKGROUND, None, ()),
    ],
)
def test_hidden_labels_are_mask_values(spec: DatasetSpec, unlabelled: str | None, wanted: tuple[int, ...]) -> None:
    """Without masks every label is hidden, the background too."""
    assert hidden_labels(spec, unlabelled, with_masks=True) == wanted
    assert hidden_labels(spec, None, with_masks=False) == tuple(range(4 + spec.has_background))


@pytest.mark.parametrize(
    ("spec", "unlabelled", "words"),
    [
        (replace(PLAIN, unseen=()), "unseen", "four has no split into seen and unseen classes; pass all, or"),
        (PLAIN, "cat,dgo", r"--unlabelled dgo: no class of four; did you mean 'dog'\?"),
        (WITH_BACKGROUND, "background", "no class of four"),
        (MANY, "all", "255 labels; labels of 254 can be hidden"),
    ],
)
def test_classes_that_there_are_not(spec: DatasetSpec, unlabelled: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        hidden_labels(spec, unlabelled, with_masks=True)


# --- training -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def clip_text(tiny_clip: Clip) -> ClipText:
    torch.manual_seed(1)
    vectors = torch.nn.functional.normalize(torch.randn(4, 32), dim=1)
    return ClipText(tiny_clip, TextSet(vectors[:2], vectors[2:]), ClipIdentity(tiny_clip.fingerprint))


def text_state(job: Job, clip_text: ClipText) -> State:
    """The small network with a text head."""
    torch.manual_seed(0)
    head = TextHead(32, 2, background=True)
    head.set_embeddings(clip_text.text.foreground)
    return small_state(job, network=Segmentor(SmallBody(32), head))


def crash_at(iteration: int, source: Source) -> Source:
    def crashing(batch: Batch, now: int) -> Tensor:
        if now == iteration:
            raise RuntimeError("as if the machine went down")
        return source(batch, now)

    return crashing


@pytest.mark.parametrize("broken_at", [3, 7])
def test_a_crashed_run_is_taken_up_exactly(tmp_path: Path, clip_text: ClipText, broken_at: int) -> None:
    """While the teacher labels, and while the network does; in between nobody does. No masks are there."""
    pairs = [replace(pair, mask=None) for pair in write_scenes(tmp_path, 4)]
    plan = Teaching(masks=False, hidden=(0, 1, 2), teacher="maskclip", guided=(1, 4), own_from=7, confidence=0.34)
    more: dict[str, Any] = {"max_iters": 9, "save_every": 2, "teaching": plan, "head": "text", "ema": 0.5}
    more |= {"words": clip_text.words}
    whole = small_job(tmp_path, pairs, "whole", **more)
    state = text_state(whole, clip_text)
    train(whole, state, ALONE, source_for(whole.settings, clip_text, state.network))
    losses = [line["loss"] for line in read_log(whole.out)]
    assert [loss > 0 for loss in losses] == [True] * 4 + [False] * 2 + [True] * 3

    job = small_job(tmp_path, pairs, "broken", **more)
    state = text_state(job, clip_text)
    with pytest.raises(RuntimeError, match="as if"):
        train(job, state, ALONE, crash_at(broken_at, source_for(job.settings, clip_text, state.network)))
    state = text_state(job, clip_text)
    assert resume(job.out, state, job.settings.record()) and state.iteration == broken_at - 1
    train(job, state, ALONE, source_for(job.settings, clip_text, state.network))
    assert read_log(whole.out) == read_log(job.out)
    assert (whole.out / "weights.safetensors").read_bytes() == (job.out / "weights.safetensors").read_bytes()
    assert isinstance(state.network.head, TextHead)
    assert state.network.head.embeddings.equal(clip_text.text.foreground)


def test_other_teaching_is_refused(tmp_path: Path) -> None:
    plan = Teaching(masks=False, hidden=(0, 1, 2), teacher="maskclip", guided=(1, 4))
    job = small_job(tmp_path, write_scenes(tmp_path, 2), max_iters=1, teaching=plan)
    train(job, small_state(job), ALONE)
    changes: dict[str, Any] = {"guided": (1, 3), "own_from": 9, "hidden": (1, 2), "confidence": 0.5, "padding": True}
    for name, value in changes.items():
        other = settings(images=2, max_iters=1, teaching=replace(plan, **{name: value}))
        with pytest.raises(UserError, match=rf"teaching_{name} .* \(now .*\); pass --overwrite"):
            resume(job.out, small_state(job), other.record())
    known = settings(images=2, max_iters=1, teaching=plan, words=ClipIdentity("0123"))
    with pytest.raises(UserError, match=r"clip_model  \(now 0123\)"):
        resume(job.out, small_state(job), known.record())


def rewritten(pairs: list[Pair], folder: Path, swap: dict[int, int]) -> list[Pair]:
    """The same scenes with other labels in their masks."""
    folder.mkdir()
    found = []
    for pair in pairs:
        assert pair.mask is not None
        table = np.arange(256, dtype=np.uint8)
        table[list(swap)] = list(swap.values())
        Image.fromarray(table[np.array(Image.open(pair.mask))]).save(folder / pair.mask.name)
        found.append(replace(pair, mask=folder / pair.mask.name))
    return found


def told(tmp_path: Path, out: str, pairs: list[Pair], plan: Teaching, source: Source) -> list[dict[str, Any]]:
    job = small_job(tmp_path, pairs, out, max_iters=8, teaching=plan)
    train(job, small_state(job), ALONE, source)
    return read_log(job.out)


def by_colour(images: Tensor) -> Tensor:
    """Who sees red says 1, else 2, so that the background would get a wrong label if it were hidden."""
    return torch.where(images[:, 0] > images[:, 2], 1, 2)


@pytest.mark.parametrize(
    ("hidden", "swap"), [((1, 2), {1: 2, 2: 1}), ((0, 1, 2), {1: 0, 2: 0})], ids=["other labels", "one label"]
)
def test_hidden_labels_do_not_leak(tmp_path: Path, hidden: tuple[int, ...], swap: dict[int, int]) -> None:
    """Nothing changes when the hidden labels of the mask files do: neither the losses nor which crops are taken.

    Crops of a single label would be drawn again, were it known.
    """
    pairs = write_scenes(tmp_path, 4)
    others = rewritten(pairs, tmp_path / "others", swap)
    plan = Teaching(hidden=hidden, teacher="maskclip", guided=(1, 8))
    source = fill_hidden(plan, {"teacher": by_colour})
    logs = [told(tmp_path, f"taught{i}", each, plan, source) for i, each in enumerate((pairs, others))]
    assert logs[0] == logs[1] and all(line["loss"] > 0 for line in logs[0])
    seen = [told(tmp_path, f"seen{i}", each, Teaching(), masks) for i, each in enumerate((pairs, others))]
    assert seen[0] != seen[1]


def test_when_the_teacher_is_through_hidden_pixels_cost_nothing(tmp_path: Path) -> None:
    """From iteration 2 on only labels that were never hidden are trained on."""
    pairs = write_scenes(tmp_path, 4)
    plan = Teaching(hidden=(1, 2), teacher="maskclip", guided=(1, 1))
    seen: list[Tensor] = []

    def watched(batch: Batch, iteration: int) -> Tensor:
        labels = fill_hidden(plan, {"teacher": by_colour})(batch, iteration)
        if iteration >= 1:
            seen.append(labels)
        return labels

    told(tmp_path, "out", pairs, plan, watched)
    assert len(seen) == 7 and {int(value) for labels in seen for value in labels.unique()} == {0, 255}


def test_a_student_of_a_teacher_learns_four_scenes(tmp_path: Path, clip_text: ClipText) -> None:
    """No mask is read; the teacher knows the colours of the squares, and calls all else the background."""
    scenes = write_scenes(tmp_path, 4)
    pairs = [replace(pair, mask=None) for pair in scenes]

    def teacher(images: Tensor) -> Tensor:
        red, green, blue = images.unbind(1)
        return torch.where(green > 0, 0, torch.where(red > blue, 1, 2))

    plan = Teaching(masks=False, hidden=(0, 1, 2), teacher="maskclip", guided=(1, 60))
    views = replace(settings().views, crop=64, scales=(1.0, 1.0), colours=False)
    job = small_job(tmp_path, pairs, max_iters=60, batch=4, lr=0.02, views=views, teaching=plan, head="text")
    state = text_state(job, clip_text)
    train(job, state, ALONE, fill_hidden(plan, {"teacher": teacher}))
    losses = [line["loss"] for line in read_log(job.out)]
    assert np.mean(losses[-5:]) < 0.3 * np.mean(losses[:5])
    network = state.network.eval()
    for pair in scenes:
        image, truth = read_pair(pair, 3)
        found = probabilities(network, image, InferenceSettings("imagenet")).argmax(0)
        assert (found == truth)[truth != 255].mean() > 0.9


def test_the_teacher_of_a_run_may_give_what_is_hidden(clip_text: ClipText) -> None:
    """With mask values, the background's prompts only where the background is hidden too."""
    plan = Teaching(hidden=(2,), teacher="maskclip", guided=(1, 9), key_smoothing=1.0, denoising=0.5, confidence=0.2)
    some = teacher_for(settings(teaching=plan, words=ClipIdentity(templates="dataset")), clip_text)
    assert some.labels == [2] and not some.background and len(some.text.background) == 0
    assert some.text.foreground.equal(clip_text.text.foreground[1:])
    own = some.settings.options
    assert (own.key_smoothing, own.denoising, own.templates) == (1.0, 0.5, "dataset")
    assert some.confidence == 0.2 and some.normalisation == "imagenet"
    every = teacher_for(settings(teaching=replace(plan, masks=False, hidden=(0, 1, 2))), clip_text)
    assert every.labels == [1, 2] and every.background and len(every.text.background) == 2
    bare = teacher_for(settings(background=False, teaching=replace(plan, hidden=(0, 1))), clip_text)
    assert bare.labels == [0, 1] and not bare.background


def test_a_resnet_has_no_attention_to_refine_with(clip_text: ClipText) -> None:
    plan = Teaching(hidden=(1,), teacher="maskclip", guided=(1, 9), refined=True)
    assert teacher_for(settings(teaching=plan), clip_text).refined
    with pytest.raises(UserError, match="--teacher_refined: needs the attention of a vision transformer"):
        teacher_for(settings(teaching=plan), replace(clip_text, clip=tiny_resnet_clip()))
