"""Files of regions: what was written is read again, other people's forms are read, and mistakes are one line each."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as rle

from common.errors import UserError
from pipeline.steps.regions import NO_REGION, LabelMap, RunLengths, SoftMasks
from zsseg.proposals import folder
from zsseg.proposals.files import find_file, read_record, read_regions, write_regions
from zsseg.proposals.folder import FolderSettings
from zsseg.proposals.proposer import Photo

SIZE = (12, 17)
VALUES = np.random.default_rng(0).integers(0, 9, SIZE)
MASKS = np.random.default_rng(1).random((5, *SIZE)) < 0.4
PHOTO = Photo("a", np.zeros((*SIZE, 3), np.uint8), (24, 34))


def masks_of(regions: RunLengths) -> np.ndarray:
    return regions.planes(slice(None)).astype(bool)


def test_label_maps_of_either_depth_come_back(tmp_path: Path) -> None:
    many = np.arange(300).reshape(15, 20) + 5
    for values, mode in ((VALUES, "L"), (many, "I;16"), (np.where(VALUES == 3, -1, VALUES), "I;16")):
        write_regions(tmp_path / "a.png", LabelMap.of(values), {"x": 1})
        with Image.open(tmp_path / "a.png") as image:
            assert image.mode == mode
        assert (read_regions(tmp_path / "a.png").labels == LabelMap.of(values).labels).all()
        assert read_record(tmp_path / "a.png") == {"x": 1}


def test_masks_come_back(tmp_path: Path) -> None:
    write_regions(tmp_path / "a.npz", RunLengths.of(MASKS, SIZE), {"x": [2]})
    assert (masks_of(read_regions(tmp_path / "a.npz")) == MASKS).all() and read_record(tmp_path / "a.npz") == {"x": [2]}
    soft = SoftMasks(SIZE, np.ones((2, 3, 4), np.float32), (16, 20), np.full((2, 3), 0.25, np.float32))
    write_regions(tmp_path / "a.npz", soft, {})
    again = read_regions(tmp_path / "a.npz")
    assert (again.logits == 1).all() and (again.probabilities == 0.25).all() and again.padded == (16, 20)


def test_other_peoples_forms(tmp_path: Path) -> None:
    wanted = LabelMap.of(VALUES).labels
    palette = Image.fromarray(VALUES.astype(np.uint8)).convert("P")
    palette.putdata(VALUES.ravel().tolist())
    palette.save(tmp_path / "p.png")
    np.save(tmp_path / "n.npy", VALUES.astype(np.int64) * 1000)
    for name in ("p.png", "n.npy"):
        assert (read_regions(tmp_path / name).labels == wanted).all()
    void = np.where(VALUES == 2, -1, VALUES)
    np.save(tmp_path / "v.npy", void)
    assert (read_regions(tmp_path / "v.npy").labels == NO_REGION).sum() == (VALUES == 2).sum()
    np.savez(tmp_path / "m.npz", masks=MASKS)
    np.save(tmp_path / "m.npy", MASKS.astype(np.uint8) * 255)
    for name in ("m.npz", "m.npy"):
        assert (masks_of(read_regions(tmp_path / name)) == MASKS).all()
    assert read_record(tmp_path / "m.npz") == {}


def colours(path: Path) -> None:
    Image.fromarray(np.zeros((*SIZE, 3), np.uint8)).save(path / "a.png")


def cut_short(path: Path) -> None:
    Image.fromarray(VALUES.astype(np.uint8)).save(path / "a.png")
    (path / "a.png").write_bytes((path / "a.png").read_bytes()[:-30])


def no_array(path: Path) -> None:
    (path / "a.npy").write_bytes(b"\x93NUMPY, or not")


def pickled(path: Path) -> None:
    np.save(path / "a.npy", np.array([{}], object), allow_pickle=True)


def fractions(path: Path) -> None:
    np.save(path / "a.npy", VALUES / 2)


def too_many(path: Path) -> None:
    np.save(path / "a.npy", np.arange(65_536).reshape(256, 256))


def nothing_in_it(path: Path) -> None:
    np.save(path / "a.npy", np.full(SIZE, -1))


def no_masks(path: Path) -> None:
    np.savez(path / "a.npz", masks=np.zeros((0, *SIZE), bool))


def other_names(path: Path) -> None:
    np.savez(path / "a.npz", segmentation=MASKS)


def other_size(path: Path) -> None:
    np.savez(path / "a.npz", masks=MASKS[:, 1:])


def missing(path: Path) -> None:
    np.save(path / "b.npy", VALUES)


MISTAKES: dict[Callable[[Path], None], str] = {
    colours: "a.png: not a readable map (a RGB picture, not a label map)",
    cut_short: "a.png: not a readable map",
    no_array: "a.npy: cannot be read as an array",
    pickled: "a.npy: cannot be read as an array",
    fractions: "a.npy: an array of float64 of shape (12, 17)",
    too_many: "a.npy: 65536 regions, more than 65535",
    nothing_in_it: "a.npy: holds no region",
    no_masks: "a.npz: holds no region",
    other_names: "a.npz: damaged, or holds something else than plain arrays (holds segmentation, and no `masks`)",
    other_size: "a.npz: regions of a photo of 11 x 17 pixels, this one has 24 x 34 or 12 x 17",
    missing: "a: no regions for this photo; expected a.png, .npy, .npz or .json there",
}


@pytest.mark.parametrize(("mistake", "told"), MISTAKES.items(), ids=lambda value: getattr(value, "__name__", ""))
def test_a_mistake_is_one_line_that_names_the_file(mistake: Callable[[Path], None], told: str, tmp_path: Path) -> None:
    mistake(tmp_path)
    with pytest.raises(UserError) as raised:
        folder.propose(FolderSettings(str(tmp_path)), PHOTO)
    assert f"{tmp_path}/{told}" in str(raised.value) and "\n" not in str(raised.value)


def test_regions_at_the_photos_own_size_are_scaled_to_where_it_is_worked_on(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.repeat(np.repeat(VALUES, 2, axis=0), 2, axis=1))
    found = folder.propose(FolderSettings(str(tmp_path)), PHOTO)
    assert (found.labels == LabelMap.of(VALUES).labels).all()
    assert find_file(tmp_path, "a") == tmp_path / "a.npy"


def test_a_folder_is_asked_for(tmp_path: Path) -> None:
    for settings, told in ((FolderSettings(), "is needed"), (FolderSettings(str(tmp_path / "x")), "no such folder")):
        with pytest.raises(UserError, match=told):
            folder.complete(settings)


def coco(counts: object) -> dict[str, object]:
    return {"size": list(SIZE), "counts": counts}


def test_run_lengths_of_coco(tmp_path: Path) -> None:
    """As SA-1B's files have them, as a list of results, as bare masks; packed, or as numbers."""
    packed = [rle.encode(np.asfortranarray(mask, np.uint8))["counts"].decode() for mask in MASKS]
    numbers = []
    for mask in MASKS:
        pixels = mask.T.ravel().tolist()
        runs, value = [0], False
        for pixel in pixels:
            if pixel != value:
                runs.append(0)
                value = pixel
            runs[-1] += 1
        numbers.append(runs)
    for content in (
        {"image": {"height": 12}, "annotations": [{"id": 1, "segmentation": coco(text)} for text in packed]},
        [{"segmentation": coco(runs), "score": 0.5} for runs in numbers],
        [coco(text) for text in packed],
    ):
        (tmp_path / "c.json").write_text(json.dumps(content))
        assert (masks_of(read_regions(tmp_path / "c.json")) == MASKS).all()
    (tmp_path / "c.json").write_text("[]")
    assert len(read_regions(tmp_path / "c.json", least=0)) == 0


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("{", "cannot be read as JSON"),
        ("[" * 100_000, "cannot be read as JSON"),
        ('{"masks": []}', "holds no list of masks"),
        ('[{"segmentation": [[1, 2, 3, 4, 5, 6]]}]', "polygons are no run lengths"),
        (json.dumps([coco([200, 4]), {"size": [1, 2], "counts": [2]}]), "masks of several sizes"),
        (json.dumps([{"size": ["1", 2], "counts": [2]}]), "masks of several sizes, or of none"),
        (json.dumps([{"size": [-12, -17], "counts": [204]}]), "masks of -12 x -17 pixels"),
        (json.dumps([coco([200, 5])]), "run lengths that are not those of 12 x 17 pixels"),
        (json.dumps([coco("ab")]), "run lengths of mask 0 that are not those of 12 x 17 pixels"),
        ("[]", "holds no region"),
    ],
)
def test_other_json_is_one_line(content: str, told: str, tmp_path: Path) -> None:
    (tmp_path / "c.json").write_text(content)
    with pytest.raises(UserError, match=told) as raised:
        read_regions(tmp_path / "c.json")
    assert str(tmp_path / "c.json") in str(raised.value) and "\n" not in str(raised.value)
