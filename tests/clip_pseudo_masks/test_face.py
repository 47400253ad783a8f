"""The Python interface gives what the command writes."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from clip_pseudo_masks.clip.load import Clip, load_clip  # type: ignore[import-not-found]
from clip_pseudo_masks.pipeline.stages import cams  # type: ignore[import-not-found]
from PIL import Image

from clip_pseudo_masks.face import CHUNK, Pipeline, UserError
from tests.support import Command, photo, write_world
from toyworld.spec import SPEC as toyworld


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    scenes = {str(number): ((31 + number % 3, 40), ["dog"]) for number in range(CHUNK + 2)}
    root = write_world(tmp_path_factory.mktemp("photos"), scenes)
    return [root / f"JPEGImages/{name}.jpg" for name in scenes]


@pytest.fixture(scope="module")
def pipeline(weights: Path) -> Pipeline:
    return Pipeline(weights, device="cpu", confidence=0.6)


LABELS = ["red dog", "tree"]


@pytest.mark.slow
def test_the_mask_is_the_one_that_the_command_writes(
    pipeline: Pipeline, photos: list[Path], weights: Path, command: Command, tmp_path: Path
) -> None:
    """From a path, an array and a PIL image alike."""
    options = ["--labels", *LABELS, "--model", weights, "--device", "cpu", "--confidence", 0.6, "--out", tmp_path]
    assert command("scripts.segment", *photos[:1], *options).code == 0
    written = np.asarray(Image.open(tmp_path / "0_mask.png"))
    rgb = np.asarray(Image.open(photos[0]))
    for image in (photos[0], str(photos[0]), rgb, Image.fromarray(rgb)):
        result = pipeline.segment(image, LABELS)
        np.testing.assert_array_equal(result.mask, written)
    assert result.mask.dtype == result.labels.dtype == np.uint8 and set(np.unique(result.labels)) <= {0, 1, 2}
    confident = result.probabilities.max(axis=0) >= 0.6
    np.testing.assert_array_equal(result.mask, np.where(confident, result.labels, 255))
    assert result.classes == tuple(LABELS) and result.keys.tolist() == [0, 1]
    assert result.cams.shape == result.refined.shape == (2, 4, 5) and result.cams.dtype == np.float32  # patches of 8
    assert result.probabilities.shape == (3, 31, 40) and 0 <= result.refined.min() <= result.refined.max() <= 1


def test_a_stream_is_drawn_little_by_little_and_stays_in_order(pipeline: Pipeline, photos: list[Path]) -> None:
    drawn: list[Path] = []

    def draw() -> Iterator[Path]:
        for path in photos:
            drawn.append(path)
            yield path

    sizes = [result.mask.shape for result in pipeline.stream(draw(), LABELS) if len(drawn) <= len(photos)]
    assert sizes == [Image.open(path).size[::-1] for path in photos]
    drawn.clear()
    next(pipeline.stream(draw(), LABELS))
    assert len(drawn) == CHUNK


@pytest.mark.slow
def test_classes_keep_their_values(weights: Path, photos: list[Path]) -> None:
    """Whatever the labels of an image are; labels may depend on it."""
    fixed = Pipeline(weights, device="cpu", classes=["cat", "dog", "tree"], confidence=0.0)
    names = {str(photos[0]): ["tree"], str(photos[1]): ["dog", "cat"]}
    one, two = fixed.stream(photos[:2], lambda image: names[str(image)])
    assert one.keys.tolist() == [2] and set(np.unique(one.mask)) <= {0, 3}
    assert two.keys.tolist() == [1, 0] and set(np.unique(two.mask)) <= {0, 1, 2}
    (tagged,) = fixed.stream(photos[:1])  # by TagCLIP
    assert len(tagged.keys) >= 1 and tagged.classes == ("cat", "dog", "tree")
    answers: list[list[str] | None] = [[], ["dog"], None]
    empty, one, none = fixed.stream([photos[0], *photos[:2]], lambda image: answers.pop(0))
    assert one.keys.tolist() == [1] and len(none.keys) >= 1
    np.testing.assert_array_equal(empty.keys, tagged.keys)
    np.testing.assert_array_equal(empty.mask, tagged.mask)
    options = {"method": "maskclip", "dataset": "voc20", "frame": (64, 32), "templates": "dataset"}
    every = Pipeline(weights, device="cpu", **options).segment(photos[0])
    assert len(every.keys) == 20 and every.probabilities.shape[0] == 20 and every.mask.shape == (31, 40)


def test_what_cannot_be_read_costs_no_other_image(pipeline: Pipeline, photos: list[Path], tmp_path: Path) -> None:
    """Nor does what is no image."""
    text = tmp_path / "text.jpg"
    text.write_text("no picture")
    bad, good, gone = pipeline.stream([text, photo((20, 30), 1), tmp_path / "gone.jpg"], LABELS)
    assert bad.mask is None and bad.error.startswith(f"{text}: not a readable image") and "\n" not in bad.error
    assert good.mask.shape == (20, 30) and not good.error and "no such image" in gone.error
    with pytest.raises(UserError, match=r"text\.jpg: not a readable image"):
        pipeline.segment(text, LABELS)
    rgb, broken = photo((20, 30), 1), tmp_path / "broken.png"
    Image.fromarray(rgb).resize((300, 200)).save(broken)
    broken.write_bytes(broken.read_bytes()[:500])
    images = [*[rgb] * CHUNK, rgb / 255.0, Image.open(broken), Image.new("F", (9, 9)), None, rgb]
    good, bad = [], []
    for number, result in enumerate(pipeline.stream(images, LABELS)):
        (bad if result.error else good).append(number)
        assert (result.mask is None) == bool(result.error)
        assert not result.error or (result.error.startswith(f"image {number}: ") and "expected" in result.error)
    assert good == [*range(CHUNK), CHUNK + 4] and bad == [CHUNK, CHUNK + 1, CHUNK + 2, CHUNK + 3]
    for one in (text, str(text), rgb, Image.fromarray(rgb), 3):
        with pytest.raises(UserError, match=r"images: .*expected a list"):
            list(pipeline.stream(one, LABELS))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"confidence": 2}, "confidence: 2: expected a number from 0 to 1"),
        ({"method": "magic"}, "invalid choice: 'magic'"),
        ({"no_such": 1}, "unrecognized arguments: --no_such"),
        ({"refine": "crf,sam"}, "votes of masks are for the commands"),
        ({"batch_size": "x"}, "batch_size: 'x'; expected a whole number"),
        ({"batch_size": 0}, "batch_size: 0; expected"),
        ({"classes": [1, 2]}, "classes: 1 is no name; expected"),
        ({"classes": ["boat", "zebra"]}, "zebra: not a class of toyworld"),
        ({"help": True}, "--help: shows the help"),
    ],
)
def test_mistakes_of_options(options: dict[str, object], message: str, photos: list[Path]) -> None:
    with pytest.raises(UserError, match=message):
        Pipeline(**options).segment(photos[0], ["dog"])


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"model": "gone.pt"}, r"gone\.pt: no such weight file"),
        ({"model": "ViT-B-61"}, "--model ViT-B-61: neither a file nor an open_clip model name"),
        ({"model": "ViT-B-16", "pretrained": "gone.pt"}, r"gone\.pt: no such weight file"),
    ],
)
def test_a_model_that_is_not_there_is_told_at_once(model: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Pipeline(**model)
    Pipeline("ViT-B-16", pretrained="openai")  # nothing is downloaded yet


@pytest.mark.parametrize("image", [np.zeros((4, 4)), np.zeros((4, 4, 4), np.uint8), 3])
def test_mistakes_of_images_and_labels(pipeline: Pipeline, image: object, photos: list[Path]) -> None:
    with pytest.raises(UserError, match=r"expected .*\(H, W, 3\)"):
        pipeline.segment(image, LABELS)
    with pytest.raises(UserError, match="labels"):
        pipeline.segment(photos[0])
    with pytest.raises(UserError, match="not a class of voc12"):
        Pipeline(pipeline.args.model, device="cpu", dataset="voc12").segment(photos[0], ["xylophone"])
    with pytest.raises(UserError, match="a function goes with"):
        list(pipeline.stream(photos, lambda image: ["dog"]))
    for labels in (["dog", 3], [["dog"]] * 4, 3):
        with pytest.raises(UserError, match=r"labels: .*expected a list of names"):
            list(pipeline.stream(photos, labels))


def test_without_a_model_the_words_decide(photos: list[Path], weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Toy words take the toy world's CLIP, others OpenAI's, in any order of calls, and nothing is loaded twice."""
    asked: list[tuple[str, str | None]] = []

    def load(model: str, pretrained: str | None, *others: object) -> Clip:
        asked.append((model, pretrained))
        return load_clip(str(weights))

    monkeypatch.setattr(cams, "load_clip", load)
    pipeline, toy, openai = Pipeline(device="cpu"), toyworld.clip, ("ViT-B-16", "openai")
    for word in ("boat", "zebra", "boat", "zebra"):
        pipeline.segment(photos[0], [word])
    assert asked == [toy, openai]
    fixed = Pipeline(classes=["cup", "boat"], device="cpu")
    result = fixed.segment(photos[0], ["boat"])
    assert asked[2:] == [toy] and result.classes == ("cup", "boat") and set(np.unique(result.labels)) <= {0, 2}


def test_a_missing_package_is_named(photos: list[Path], weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*given: object) -> Clip:
        raise ModuleNotFoundError("No module named 'transformers'", name="transformers")

    monkeypatch.setattr(cams, "load_clip", load)
    with pytest.raises(UserError, match="needs the package transformers, which is not installed"):
        Pipeline(weights, device="cpu").segment(photos[0], LABELS)
