"""Tagging image by image: TagCLIP's road against one written with loops, label files, and scores of tags."""

import math
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from clip import templates
from clip.image import prepare_image
from clip.load import Clip
from clip.templates import MASKCLIP85
from clip.text import encode_prompts
from clip.vision import vision_forward
from common.errors import UserError
from common.images import read_image
from common.provenance import source_of
from dataset.spec import DatasetSpec, Sample
from pipeline.files.tag_journal import Entry, journal_beside
from pipeline.methods import tagclip
from pipeline.methods.method import TextSet
from pipeline.methods.tagclip import TagSettings
from pipeline.stages import tags as stage_tags
from pipeline.stages.tags import Tags, TagWork
from pipeline.steps import tag_regions
from pipeline.steps.tag_scores import average_precision, tag_scores
from tests.support import photo

CLASSES = ("cat", "dog", "bird", "car", "boat")
PLAIN = TagSettings(templates="dataset")
SPEC = DatasetSpec("five", CLASSES, tuple((f"{name} thing",) for name in CLASSES), ("sky", "road"), True, 0.4)


@pytest.fixture(scope="module")
def text(tiny_clip: Clip) -> TextSet:
    return tagclip.encode_words(tiny_clip, SPEC, PLAIN)


@pytest.fixture
def samples(world: Path) -> list[Sample]:
    return [Sample(name, world / "JPEGImages" / f"{name}.jpg", (3,)) for name in "abcde"]


# --- one image ------------------------------------------------------------------------------------


def naive_boxes(heat: np.ndarray, threshold: float) -> np.ndarray:
    """TagCLIP's own way: outer contours only, boxes filled patch by patch."""
    levels = (heat * 255).astype(np.uint8)
    binary = (levels > int(threshold * levels.max())).astype(np.uint8)
    contours, _ = cv2.findContours(binary, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    mask = np.zeros(heat.shape, bool)
    for contour in contours:
        xs, ys = contour[:, 0, 0], contour[:, 0, 1]
        for y in range(ys.min(), min(ys.max() + 1, heat.shape[0] - 1)):
            for x in range(xs.min(), min(xs.max() + 1, heat.shape[1] - 1)):
                mask[y, x] = True
    return mask


@pytest.mark.parametrize("seed", range(4))
def test_refined_scores_are_those_of_outer_boxes(seed: int) -> None:
    torch.manual_seed(seed)
    grid = (5 + seed, 9 - seed)
    count = grid[0] * grid[1]
    affinity, coarse = torch.rand(count, count) ** 6, torch.rand(count, 3) ** 3
    found = tagclip.refined_scores(affinity, coarse, grid).numpy()
    inside = 0
    for index in range(3):
        spread = affinity.numpy() @ coarse[:, index].numpy()
        heat = ((spread - spread.min()) / (1e-7 + (spread - spread.min()).max())).reshape(grid)
        mask = naive_boxes(heat, float(heat.mean()))
        wanted = (affinity.numpy() * mask.reshape(1, -1)) @ coarse[:, index].numpy()
        assert np.allclose(found[:, index], wanted, atol=1e-4)
        inside += mask.sum()
    assert 0 < inside < 3 * count


def naive_scores(clip: Clip, image: torch.Tensor, text: TextSet, settings: TagSettings) -> np.ndarray:
    """TagCLIP class by class , out of the functions that have naive tests of their own."""
    words = torch.cat([text.foreground, text.background])
    features = vision_forward(clip.visual, image[None])
    h, w = features.grid
    coarse = tag_regions.patch_probabilities(clip.visual, features.last_input, words, clip.logit_scale)[0]
    affinity = tag_regions.voted_attention(
        torch.stack([maps[0] for maps in features.attention]),
        settings.votes_of(len(features.attention)),
        settings.blocks_of(len(features.attention)),
    )
    refined = tagclip.refined_scores(affinity, coarse[:, : len(CLASSES)], (h, w))
    scores = [float(refined[:, index].max()) for index in range(len(CLASSES))]
    limit = float(refined.min()) + settings.candidate_share * float(refined.max() - refined.min())
    for index in [index for index, score in enumerate(scores) if score > limit]:
        heat = refined[:, index].reshape(h, w)
        heat = (heat - heat.min()) / (heat - heat.min()).max()
        region = tag_regions.region_of(heat, settings.region_level, 4)
        if region is None:
            continue
        crop = tag_regions.crop(image, region, clip.patch_size)
        probabilities = tag_regions.crop_probabilities(
            clip.visual, crop[None], region.inside[None], words, clip.logit_scale
        )
        scores[index] += settings.crop_weight * (float(probabilities[0, index]) - scores[index])
    return np.array(scores)


@pytest.mark.parametrize("settings", [TagSettings(), TagSettings(candidate_share=0.1, crop_weight=0.8, votes=2)])
def test_scores_are_those_of_a_loop_over_classes(
    tiny_clip: Clip, text: TextSet, samples: list[Sample], settings: TagSettings
) -> None:
    looked_again = 0
    for sample in samples:
        image = prepare_image(read_image(sample.image), tiny_clip.patch_size)
        found = tagclip.class_scores(tiny_clip, image, text, settings)
        assert np.allclose(found, naive_scores(tiny_clip, image, text, settings), atol=1e-4)
        once = tagclip.class_scores(tiny_clip, image, text, TagSettings(crop_weight=0, votes=settings.votes))
        looked_again += int((np.abs(found - once) > 1e-4).sum())
    assert looked_again


def test_a_class_without_a_region_leaves_the_others_their_crops(
    tiny_clip: Clip, text: TextSet, samples: list[Sample]
) -> None:
    """In the reference, the first such class ends the crops of the whole image."""
    image = prepare_image(read_image(samples[0].image), tiny_clip.patch_size)  # 4 x 5 patches
    scores = torch.zeros(20, 5)
    scores[16, 0] = 1.0  # last row: nothing is left of its box
    scores[[6, 7, 11], 1] = 0.9
    words = torch.cat([text.foreground, text.background])
    found = tagclip.crop_scores(tiny_clip, image, scores, (4, 5), words, TagSettings())
    assert set(found) == {1}
    scores[:, 1] = 0
    assert tagclip.crop_scores(tiny_clip, image, scores, (4, 5), words, TagSettings()) == {}


# --- text -----------------------------------------------------------------------------------------


def test_dataset_templates_use_its_prompts(tiny_clip: Clip, text: TextSet) -> None:
    wanted = encode_prompts(tiny_clip, [["a clean origami bird thing."], ["a clean origami road."]])
    assert torch.allclose(text.foreground[2], wanted[0], atol=1e-5)
    assert torch.allclose(text.background[1], wanted[1], atol=1e-5)


@pytest.mark.parametrize(("by_name", "words"), [(False, "bird thing"), (True, "bird")])
def test_published_templates_use_bare_names_where_tagclip_does(tiny_clip: Clip, by_name: bool, words: str) -> None:
    spec = DatasetSpec("one", ("bird",), (("bird thing",),), ("sky",), True, 0.4, tags_by_name=by_name)
    found = tagclip.encode_words(tiny_clip, spec, TagSettings())
    wanted = encode_prompts(tiny_clip, [[template.replace("{}", words) for template in MASKCLIP85]])
    assert torch.allclose(found.foreground, wanted, atol=1e-5) and found.background.shape == (1, 32)


def test_auto_templates_follow_what_the_model_knows(tiny_clip: Clip, monkeypatch: pytest.MonkeyPatch) -> None:
    assert templates.choose_templates(tiny_clip, "auto") == "maskclip85"
    monkeypatch.setattr(templates, "knows_templates", lambda clip, sentences: False)
    assert templates.choose_templates(tiny_clip, "auto") == "dataset"
    assert templates.choose_templates(tiny_clip, "maskclip85") == "maskclip85"


# --- many images ----------------------------------------------------------------------------------


@pytest.fixture
def work(tiny_clip: Clip, world: Path) -> TagWork:
    return stage_tags.set_up(tiny_clip, SPEC, world, PLAIN)


def test_images_come_in_order_and_a_bad_one_gives_a_reason(work: TagWork, samples: list[Sample]) -> None:
    samples[1].image.write_bytes(b"no image")
    tags = list(stage_tags.tag_samples(work, samples, threads=3))
    assert [tag.id for tag in tags] == list("abcde")
    assert tags[1].scores is None and "b.jpg" in tags[1].reason and tags[1].outcome.status == "failed"
    for tag in [*tags[:1], *tags[2:]]:
        assert tag.outcome.status == "made" and tag.scores.shape == (5,)
        assert tag.labels == tag_regions.choose_labels(tag.scores, 0.5) and 0 < tag.scores.max() <= 1


@pytest.mark.parametrize("settings", [TagSettings(blocks=(0, 3)), TagSettings(blocks=(-1,)), TagSettings(votes=4)])
def test_settings_that_do_not_fit_the_model_are_refused(tiny_clip: Clip, settings: TagSettings, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--tag_(blocks|votes)"):
        stage_tags.set_up(tiny_clip, SPEC, tmp_path, settings)


def test_the_journal_saves_the_work_of_images_that_are_the_same(
    work: TagWork, samples: list[Sample], tmp_path: Path
) -> None:
    """What an interrupted run finished is taken over, but not of a photo that was replaced by one of the same size."""
    journal = journal_beside(tmp_path / "tags.txt", work.record)
    alone = {tag.id: tag for tag in stage_tags.tag_samples(work, samples)}
    known = {key: Entry(source_of(alone[key].sample.image), np.full(5, 0.5, np.float32)) for key in "bc"}
    with journal.adding(known):
        pass
    Image.fromarray(photo(read_image(samples[2].image).size[::-1], 77)).save(samples[2].image)
    found = list(stage_tags.tag_samples(work, samples, journal))
    assert [tag.outcome.status for tag in found] == ["made", "kept", "made", "made", "made"]
    assert np.array_equal(found[1].scores, known["b"].scores)
    assert np.array_equal(found[0].scores, alone["a"].scores)
    assert not np.allclose(found[2].scores, alone["c"].scores, atol=1e-4)
    assert sorted(journal.read()) == list("abcde")


def tag(image_id: str, labels: tuple[int, ...]) -> Tags:
    return Tags(Sample(image_id, Path(), labels), np.zeros(5, np.float32))


def test_a_label_file_holds_ids_and_class_indices(tmp_path: Path) -> None:
    tags = [
        tag("a", (0, 4)),
        tag("my trip/b 1", (2,)),
        tag("#c", (1,)),
    ]
    stage_tags.write_labels(tmp_path / "out" / "tags.txt", tags)
    assert (tmp_path / "out" / "tags.txt").read_text() == 'a 0 4\n"my trip/b 1" 2\n"#c" 1\n'


def test_an_id_that_no_line_can_hold_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="rename"):
        stage_tags.write_labels(tmp_path / "tags.txt", [tag('a"b', (0,))])


def test_an_id_that_no_line_can_hold_fails_alone_and_first(world: Path) -> None:
    images = world / "JPEGImages"
    for name in ('a"b', "a\nb"):
        (images / f"{name}.jpg").write_bytes((images / "a.jpg").read_bytes())
    found, failures = stage_tags.unlabelled(images, ["a", 'a"b', "a\nb", "c"])
    assert [sample.id for sample in found] == ["a", "c"]
    assert [key for key, _ in failures] == ['a"b', "a\nb"] and all("rename" in reason for _, reason in failures)


# --- scores ---------------------------------------------------------------------------------------


def naive_average_precision(is_true: list[bool], scores: list[float]) -> float:
    """Every distinct score as a threshold, from the highest; precision times what recall gains."""
    total, before = 0.0, 0
    for threshold in sorted(set(scores), reverse=True):
        taken = [true for true, score in zip(is_true, scores) if score >= threshold]
        total += (sum(taken) - before) * sum(taken) / len(taken)
        before = sum(taken)
    return total / sum(is_true)


@pytest.mark.parametrize("seed", range(20))
def test_average_precision_is_that_of_a_loop_over_thresholds(seed: int) -> None:
    rng = np.random.default_rng(seed)
    is_true, scores = rng.random(9) < 0.4, rng.integers(0, 6, 9) / 5
    is_true[seed % 9] = True
    wanted = naive_average_precision(is_true.tolist(), scores.tolist())
    assert average_precision(is_true, scores) == pytest.approx(wanted)
    order = rng.permutation(9)
    assert average_precision(is_true[order], scores[order]) == pytest.approx(wanted)


def test_scores_by_hand() -> None:
    truth = [(0, 1), (1,), (), (2,)]
    labels = [(0,), (1, 2), (0,), (2,)]
    ranks = np.array([[0.9, 0.1, 0, 0], [0.1, 0.8, 0.6, 0], [0.5, 0.2, 0, 0], [0.2, 0.3, 0.6, 0]], np.float32)
    found = tag_scores(truth, labels, list(ranks))
    assert found.images == 4 and found.ap[0] == 1 and found.ap[3] is None
    assert found.ap[1] == pytest.approx((1 / 1 + 2 / 4) / 2) and found.ap[2] == pytest.approx(1 / 2)
    assert found.map == pytest.approx((1 + 0.75 + 0.5) / 3)
    assert found.precision == pytest.approx((1 + 0.5 + 0 + 1) / 4)
    assert found.recall == pytest.approx((0.5 + 1 + 1) / 3)  # the image without labels has none to find
    assert found.f1 == pytest.approx((2 / 3 + 2 / 3 + 0 + 1) / 4)
    assert found.exact == 0.25


def test_no_image_is_no_score() -> None:
    with pytest.raises(ValueError, match="no image"):
        tag_scores([], [], [])


def test_images_that_show_nothing_anywhere_score_zero() -> None:
    found = tag_scores([()], [(0,)], [np.ones(2)])
    assert (found.map, found.recall, found.precision) == (0, 0, 0) and not math.isnan(found.f1)
