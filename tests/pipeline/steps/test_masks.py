"""Masks as their readers see them, and the rule of confidence."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from common.errors import UserError
from dataset.mask_png import (
    confidence_text,
    mask_confidence,
    mask_made_by,
    read_mask,
    voc_palette,
    write_mask,
)
from pipeline.steps.masks import confident, labels_of, mean_confidence, with_background

LABELS = np.array([[0, 1, 2], [15, 20, 255], [80, 128, 254]], np.uint8)


def test_default_mask_is_read_alike_by_every_reader(tmp_path: Path) -> None:
    write_mask(tmp_path / "m.png", LABELS)
    with Image.open(tmp_path / "m.png") as image:
        assert image.mode == "L" and np.array_equal(image, LABELS)
    for flag in (cv2.IMREAD_GRAYSCALE, cv2.IMREAD_UNCHANGED):
        found = cv2.imread(str(tmp_path / "m.png"), flag)
        assert found.shape == LABELS.shape and np.array_equal(found, LABELS)
    assert np.array_equal(read_mask(tmp_path / "m.png"), LABELS)


def test_palette_mask_has_the_same_labels_in_vocs_colours(tmp_path: Path) -> None:
    write_mask(tmp_path / "m.png", LABELS, palette=True)
    with Image.open(tmp_path / "m.png") as image:
        assert image.mode == "P" and np.array_equal(image, LABELS)
        assert np.asarray(image.convert("RGB"))[1].tolist() == [[192, 128, 128], [0, 64, 128], [224, 224, 192]]
    assert np.array_equal(read_mask(tmp_path / "m.png"), LABELS)


def test_palette_is_that_of_pascal_voc() -> None:
    """The colours that VOC's development kit lists, void included."""
    known = ["0 0 0", "128 0 0", "0 128 0", "128 128 0", "0 0 128", "128 0 128", "0 128 128", "128 128 128",
             "64 0 0", "192 0 0", "64 128 0", "192 128 0", "64 0 128", "192 0 128", "64 128 128", "192 128 128",
             "0 64 0", "128 64 0", "0 192 0", "128 192 0", "0 64 128"]  # fmt: skip
    found = [" ".join(map(str, colour)) for colour in voc_palette().tolist()]
    assert found[:21] == known and found[255] == "224 224 192" and len(set(found)) == 256


def test_palette_is_that_of_official_masks(voc_mini: Path) -> None:
    official = Image.open(next(iter(sorted((voc_mini / "SegmentationClass").iterdir()))))
    assert np.array_equal(np.array(official.getpalette(), np.uint8).reshape(-1, 3), voc_palette())


@pytest.mark.parametrize("palette", [False, True])
@pytest.mark.parametrize("text", ["", '{"alpha": 1, "b": [2.5]}', "Größe “x” → y", "line\nline", "long " * 2000])
def test_made_by_comes_back(tmp_path: Path, text: str, palette: bool) -> None:
    write_mask(tmp_path / "m.png", LABELS, palette, text)
    assert mask_made_by(tmp_path / "m.png") == text


def test_a_mask_that_was_cut_or_changed_anywhere_is_damaged(tmp_path: Path) -> None:
    write_mask(tmp_path / "m.png", LABELS, made_by="x")
    whole = (tmp_path / "m.png").read_bytes()
    cut = [whole[:length] for length in range(0, len(whole), 7)]
    changed = [whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :] for at in range(0, len(whole), 7)]
    for data in (*cut, *changed):
        (tmp_path / "m.png").write_bytes(data)
        with pytest.raises(UserError):
            mask_made_by(tmp_path / "m.png")


def test_made_by_of_a_foreign_mask_is_empty(tmp_path: Path) -> None:
    Image.fromarray(LABELS).save(tmp_path / "m.png")
    assert mask_made_by(tmp_path / "m.png") == ""


def test_one_bit_masks_are_labels_too(tmp_path: Path) -> None:
    Image.fromarray(np.array([[True, False]])).save(tmp_path / "m.png")
    assert read_mask(tmp_path / "m.png").tolist() == [[1, 0]]


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "CMYK"])
def test_a_picture_is_not_taken_for_labels(tmp_path: Path, mode: str) -> None:
    name = "m.tif" if mode == "CMYK" else "m.png"
    Image.new(mode, (2, 2), (200, 30, 0, 0)[: len(mode)]).save(tmp_path / name)
    with pytest.raises(UserError, match=rf"{name}: a {mode} picture, not labels; .* --mask_values maps colours"):
        read_mask(tmp_path / name)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "I;16"])
def test_greys_in_any_form_are_labels(tmp_path: Path, mode: str) -> None:
    colour = {"RGB": (7, 7, 7), "RGBA": (7, 7, 7, 255), "LA": (7, 255), "I;16": 7}[mode]
    Image.new(mode, (1, 1), colour).save(tmp_path / "m.png")
    assert read_mask(tmp_path / "m.png").tolist() == [[7]]


def test_values_above_255_are_no_labels(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 300]], np.uint16)).save(tmp_path / "m.png")
    with pytest.raises(UserError, match=r"m\.png: holds the value 300; --mask_values maps values"):
        read_mask(tmp_path / "m.png")


@pytest.mark.parametrize("damage", ["missing", "text", "half", "empty", "folder"])
def test_a_damaged_mask_is_named(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "m.png"
    if damage == "folder":
        path.mkdir()
    elif damage != "missing":
        write_mask(path, np.random.default_rng(0).integers(0, 20, (50, 50), np.uint8))
        contents = {"text": b"hello", "half": path.read_bytes()[: path.stat().st_size // 2], "empty": b""}
        path.write_bytes(contents[damage])
    with pytest.raises(UserError, match=r"m\.png: (no such mask|not a readable mask)"):
        read_mask(path)


@pytest.mark.parametrize(
    ("probabilities", "confidence", "expected"),
    [
        ([0.95, 0.05], 0.95, 7),  # exactly at the threshold: kept
        ([np.nextafter(0.95, 0), 0.05], 0.95, 255),
        ([0.1, 0.9], 0.95, 255),
        ([0.02, 0.98], 0.95, 7),
        ([0.4, 0.3], 0.0, 7),
        ([1.0, 0.0], 1.0, 7),
    ],
)
def test_confidence_rule(probabilities: list[float], confidence: float, expected: int) -> None:
    found = confident(np.array([[7]], np.uint8), np.array(probabilities).reshape(2, 1, 1), confidence)
    assert found.tolist() == [[expected]] and found.dtype == np.uint8


def test_mean_confidence_is_of_all_pixels_of_a_label(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet(np.ones(3), (6, 7)).transpose(2, 0, 1)
    labels = labels_of(probabilities, np.array([4, 14]))
    pixels: dict[int, list[float]] = {}
    for row, column in np.ndindex(6, 7):
        pixels.setdefault(int(labels[row, column]), []).append(max(probabilities[:, row, column]))
    means = {value: sum(values) / len(values) for value, values in pixels.items()}
    assert mean_confidence(labels, probabilities) == pytest.approx(means) and len(means) == 3
    write_mask(tmp_path / "m.png", labels, confidence=confidence_text(means))
    assert mask_confidence(tmp_path / "m.png") == pytest.approx(means, abs=5e-4)


@pytest.mark.parametrize("text", ["", "sure", "[]", '{"one": 1}', '{"1": [2]}', "[" * 99_999])
def test_confidence_that_others_wrote_is_none(tmp_path: Path, text: str) -> None:
    write_mask(tmp_path / "m.png", LABELS, confidence=text)
    assert mask_confidence(tmp_path / "m.png") == {}


@pytest.mark.parametrize(
    ("maps", "exponent", "background"),
    [
        ([[[0.0, 0.5, 1.0]]], 1, [1.0, 0.5, 0.0]),
        ([[[0.0, 0.5, 1.0]]], 2, [1.0, 0.25, 0.0]),
        ([[[0.2, 0.5]], [[0.6, 0.1]]], 1, [0.4, 0.5]),
        (np.zeros((0, 1, 2)), 1, [1.0, 1.0]),
    ],
)
def test_background_score_comes_first(maps: list, exponent: float, background: list[float]) -> None:
    found = with_background(np.array(maps), exponent)
    assert np.allclose(found[0], [background]) and np.array_equal(found[1:], np.array(maps))


@pytest.mark.parametrize(
    ("scores", "keys", "labels"),
    [
        ([[0.9, 0.1, 0.1], [0.0, 0.8, 0.2], [0.1, 0.1, 0.7]], [4, 14], [0, 5, 15]),
        ([[0.5, 0.2], [0.5, 0.3]], [0], [0, 1]),  # a tie goes to the background
        ([[0.3, 0.0]], [], [0, 0]),
        ([[0.0], [0.4], [0.4]], [9, 2], [10]),  # a tie of classes to the first
    ],
)
def test_labels_are_class_index_plus_one(scores: list, keys: list[int], labels: list[int]) -> None:
    found = labels_of(np.array(scores)[:, None], np.array(keys, np.int64))
    assert found.tolist() == [labels] and found.dtype == np.uint8
