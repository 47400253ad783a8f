"""SegCLIP's maps against a plain transcription that looks at one window of one photo after the other."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from benchmarks import plain_segclip as plain
from clip.image import prepare_image
from clip.model import Texts
from clip.templates import SEGCLIP7
from clip.text import encode_tokens, tokenize
from common.errors import UserError
from dataset.spec import DatasetSpec
from pipeline.methods.method import CamSettings, TextSet
from pipeline.methods.segclip import SegClipSettings
from pipeline.methods.table import METHODS, compute_maps
from pipeline.stages.cams import ModelSource, text_set
from segclip.load import GroupingClip
from tests.segclip.small import EMBEDDING, SIDE, small_segclip
from tests.support import photo

CLASSES = tuple("abcdefgh")
SPEC = DatasetSpec("eight", CLASSES, tuple((name,) for name in CLASSES), ("sky",), True, 0.4)
METHOD = METHODS["segclip"]


@pytest.fixture(scope="module")
def clip() -> GroupingClip:
    network = small_segclip(7, vocabulary=49408)
    return GroupingClip(network.clip, Texts(network.clip, {}), "small", "quick_gelu", "0" * 16)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def text() -> TextSet:
    rows = torch.randn(len(CLASSES), EMBEDDING, generator=torch.Generator().manual_seed(8))
    return TextSet(F.normalize(rows, dim=-1), torch.zeros(0, EMBEDDING))


def settings(**options: object) -> CamSettings:
    return CamSettings(method="segclip", options=SegClipSettings(**{"background_threshold": 0.8, **options}))  # type: ignore[arg-type]


def images(clip: GroupingClip, photos: list[np.ndarray]) -> torch.Tensor:
    preparation = METHOD.preparation(clip, None)
    return torch.stack([prepare_image(Image.fromarray(one), 8, None, preparation) for one in photos])


@pytest.mark.parametrize(("threshold", "top"), [(0.8, 5), (0.05, 2), (None, 5), (0.02, 20)])
@pytest.mark.parametrize("size", [(40, 61), (70, 30), (33, 33), (200, 25)])
def test_scores_are_the_plain_ones(
    size: tuple[int, int], threshold: float | None, top: int, clip: GroupingClip, text: TextSet
) -> None:
    photos = [photo(size, seed) for seed in (1, 2)]
    options = settings(background_threshold=threshold, top_classes=top)
    together = compute_maps(clip, images(clip, photos), [range(len(CLASSES))] * 2, text, options)
    state = {f"clip.{name}": value for name, value in clip.model.state_dict().items()}
    for one, (scores, same) in zip(photos, together):
        wanted = plain.window_mean(state, one, text.foreground, threshold, top)
        wanted = wanted if threshold is None else wanted[1:] - wanted[:1]
        assert same is scores and scores.shape == wanted.shape and min(scores.shape[1:]) == SIDE
        # A pixel between two groups may fall to the other one.
        assert float(((scores - wanted).abs() > 1e-4).any(dim=0).float().mean()) < 2e-3
        assert float(scores.std()) > 1e-3


def test_labels_keep_classes_out_but_not_out_of_the_probabilities(clip: GroupingClip, text: TextSet) -> None:
    """In each window the probability among the shown classes, times that among all eight, of a pixel's group."""
    batch, present = images(clip, [photo((32, 32), seed) for seed in (3, 4)]), [(6, 1, 2), (5,)]
    found = compute_maps(clip, batch, present, text, settings(top_classes=2, background_threshold=None))
    state = {f"clip.{name}": value for name, value in clip.model.state_dict().items()}
    for image, classes, (scores, _) in zip(batch, present, found):
        logits, tokens = plain.groups_of(state, plain.patch_tokens(state, image))
        of_image, of_groups = (F.normalize(part, dim=-1) for part in plain.features_of(state, tokens))
        scale = float(clip.logit_scale)
        similar = scale * of_groups @ text.foreground.T
        best = sorted(classes, key=lambda label: -float(of_image @ text.foreground[label]))[:2]
        groups = F.interpolate(logits.softmax(0).view(1, -1, 4, 4), (SIDE, SIDE), mode="bilinear")[0].argmax(0)
        for slot, label in enumerate(classes):
            if label not in best:
                assert not scores[slot].any()
                continue
            table = similar[:, best].softmax(1)[:, best.index(label)] * similar.softmax(1)[:, label]
            assert torch.allclose(scores[slot], table[groups], atol=1e-5)


def test_images_of_a_batch_give_what_they_give_alone(clip: GroupingClip, text: TextSet) -> None:
    batch = images(clip, [photo((40, 50), seed) for seed in range(4)])
    labels = [(1,), (), (0, 2, 3), (1,)]
    for more in ({}, {"flip": True, "scales": (1.0, 1.5)}):
        asked = replace(settings(keep_groups=not more), **more)  # type: ignore[arg-type]
        together = compute_maps(clip, batch, labels, text, asked)
        for index, found in enumerate(together):
            (alone,) = compute_maps(clip, batch[index : index + 1], labels[index : index + 1], text, asked)
            assert found[0].shape == (len(labels[index]), *batch.shape[-2:])
            for ours, theirs in zip(found, alone):
                assert torch.allclose(ours, theirs, atol=1e-5)


def test_without_classes_or_threshold_everything_or_nothing_is_background(clip: GroupingClip, text: TextSet) -> None:
    batch = images(clip, [photo((40, 40), 5)])
    ((none, _),) = compute_maps(clip, batch, [()], text, settings())
    assert none.shape == (0, SIDE, SIDE)
    ((never, _),) = compute_maps(clip, batch, [range(8)], text, settings(background_threshold=0.0))
    ((free, _),) = compute_maps(clip, batch, [range(8)], text, settings(background_threshold=None))
    assert float(never.amax(dim=0).min()) > 0 and torch.equal(never.argmax(dim=0), free.argmax(dim=0))


def test_kept_groups_are_those_of_the_pixels(clip: GroupingClip, text: TextSet) -> None:
    batch = images(clip, [photo((32, 32), 6)])
    ((scores, _, groups),) = compute_maps(clip, batch, [range(8)], text, settings(keep_groups=True))  # type: ignore[misc]
    assert groups.shape == (SIDE, SIDE) and len(groups.unique()) > 1
    for group in groups.unique():  # one score each
        members = scores[:, groups == group]
        assert torch.allclose(members, members[:, :1].expand_as(members), atol=1e-6)


def test_the_mean_of_sentences_is_of_embeddings_of_any_length(clip: GroupingClip) -> None:
    spec = replace(SPEC, segclip_prompts=tuple((f"{name} {name}", name) for name in CLASSES))
    found = text_set(clip, spec, settings(templates="subset"))
    sentences = [sentence.replace("{}", name) for sentence in SEGCLIP7 for name in ("c c", "c")]
    mean = encode_tokens(clip, tokenize(clip, sentences)).mean(dim=0)
    assert torch.allclose(found.foreground[2], mean / mean.norm(), atol=1e-5) and not len(found.background)


def test_what_the_data_set_decides(clip: GroupingClip) -> None:
    spec = replace(SPEC, segclip_threshold=0.3, plain_prompts=tuple((name * 2,) for name in CLASSES))
    assert METHOD.complete(clip, spec, SegClipSettings()).background_threshold == 0.3
    assert METHOD.complete(clip, spec, SegClipSettings(0.1)).background_threshold == 0.1
    bare = replace(spec, has_background=False)
    assert METHOD.complete(clip, bare, SegClipSettings()).background_threshold is None
    with pytest.raises(UserError, match=r"--background_threshold 0\.1: eight has no background"):
        METHOD.complete(clip, bare, SegClipSettings(0.1))
    assert METHOD.words(spec, SegClipSettings()).names[1] == ("bb",) and not METHOD.needs_labels


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (ModelSource("ViT-B-16", "openai"), "--model ViT-B-16 --pretrained openai: no file; --method segclip takes a"),
        (ModelSource(""), "--model is needed with --method segclip: a SegCLIP checkpoint"),
        (ModelSource("missing.bin"), "--model missing.bin: no file"),
        (ModelSource("missing.bin", prompts=Path("p.safetensors")), "--prompts: learned for a CLIP"),
    ],
)
def test_only_a_checkpoint_will_do(source: ModelSource, reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        source.load(method=METHOD)
