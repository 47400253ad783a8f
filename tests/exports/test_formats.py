"""Masks for other trainers: files read the way those trainers read them."""

import os
import runpy
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from common.errors import UserError
from common.provenance import record_text, source_of
from dataset.mask_png import read_mask, write_mask
from exports.files import Job, export
from exports.table import FORMATS, format_of
from tests.segmentor.small import LABELS, scene
from tests.support import replace_photo

Item = tuple[str, Path, Path]


def job_of(out: Path, validated: bool = False, **options: Any) -> Job:
    return Job(out, LABELS, validated=validated, **options)


def items(root: Path, ids: tuple[str, ...], palette: bool = False) -> list[Item]:
    """Scenes as JPEG or PNG, whatever the id ends in, and their masks."""
    found = []
    for seed, image_id in enumerate(ids):
        image, labels = scene(seed)
        suffix = "jpg" if seed % 2 else "png"
        files = root / "img" / f"{image_id}.{suffix}", root / "msk" / f"{image_id}.png"
        files[0].parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(files[0], quality=95)
        write_mask(files[1], labels, palette)
        found.append((image_id, *files))
    return found


def read_as_deeplab(out: Path, split: str) -> list[tuple[np.ndarray, np.ndarray]]:
    """What that project's VOCAug data set does with its root and a split."""
    root = out / "VOC2012"
    pairs = []
    for line in (root / "ImageSets/SegmentationAug" / f"{split}.txt").read_text().splitlines():
        image, label = line.rstrip().split(" ")
        bgr = cv2.imread(os.path.join(root, image[1:]), cv2.IMREAD_COLOR)  # noqa: PTH118
        pairs.append((bgr[..., ::-1], np.asarray(Image.open(root / label[1:]), dtype=np.int32)))
    return pairs


def read_as_mmseg(out: Path, part: str) -> list[tuple[np.ndarray, np.ndarray]]:
    """What BaseSegDataset does with the configuration that is written."""
    loader = runpy.run_path(str(out / "dataset.py"))[f"{part}_dataloader"]["dataset"]
    root, folders = Path(loader["data_root"]), loader["data_prefix"]
    pairs = []
    for line in (root / loader["ann_file"]).read_text().splitlines():
        name = line.strip()
        bgr = cv2.imread(str(root / folders["img_path"] / f"{name}.jpg"), cv2.IMREAD_COLOR)
        grey = np.array(Image.open(root / folders["seg_map_path"] / f"{name}.png"))
        pairs.append((bgr[..., ::-1], grey.squeeze().astype(np.uint8)))
    return pairs


READERS = {"deeplab-pytorch": read_as_deeplab, "mmsegmentation": read_as_mmseg}
SPLITS = {"deeplab-pytorch": ("train_aug", "val"), "mmsegmentation": ("train", "val")}


@pytest.mark.parametrize("kind", READERS)
@pytest.mark.parametrize("palette", [False, True])
@pytest.mark.parametrize("copy", [False, True])
def test_the_trainers_find_images_and_labels(tmp_path: Path, kind: str, palette: bool, copy: bool) -> None:
    ids, out = ("a", "sub/b.c", "with space"), tmp_path / "out"
    train, unseen = items(tmp_path, ids, palette), items(tmp_path / "unseen", ("u",), palette)
    for _ in range(2):  # what is there is replaced
        done = export(format_of(kind), job_of(out, True, copy=copy), {"train": train, "val": unseen})
    assert (done.pairs, done.palettes, done.failures) == ({"train": 3, "val": 1}, 4 * palette, [])
    for split, seeds in zip(SPLITS[kind], (3, 1)):
        found = READERS[kind](out, split)
        assert len(found) == seeds
        for seed, (image, labels) in enumerate(found):
            expected = scene(seed)
            assert np.array_equal(labels, expected[1])
            assert abs(image.astype(int) - expected[0]).mean() < 12  # JPEG; other scenes differ by 30
    grey = [cv2.imread(str(path), cv2.IMREAD_GRAYSCALE) for path in out.rglob("with*space.png")]
    assert len(grey) == 1 and np.array_equal(grey[0], scene(2)[1])
    links = [path for path in out.rglob("*.jpg") if path.is_symlink()]
    assert len(links) == (0 if copy else 4) and not any(str(path.readlink()).startswith("/") for path in links)
    for _, _, mask in train:  # never written through a link
        assert Image.open(mask).mode == ("P" if palette else "L")


def test_what_does_not_fit_is_listed(tmp_path: Path) -> None:
    found = items(tmp_path, ("a", "b", "x y", "x_y"))
    found[0][2].unlink()
    Image.fromarray(np.zeros((3, 3), np.uint8)).save(found[1][2])
    done = export(format_of("deeplab-pytorch"), job_of(tmp_path / "out"), {"train": found})
    assert done.pairs == {"train": 1} and [image_id for image_id, _ in done.failures] == ["a", "b", "x_y"]
    assert "no such mask" in done.failures[0][1] and "size (3, 3)" in done.failures[1][1]
    assert "x y of train is written under the same name" in done.failures[2][1]
    with pytest.raises(UserError, match="nothing to export"):
        export(format_of("mmsegmentation"), job_of(tmp_path / "none"), {"train": found[:2]})


def test_configurations_name_the_labels(tmp_path: Path) -> None:
    pairs = {"train": items(tmp_path, ("a",))}
    export(format_of("deeplab-pytorch"), job_of(tmp_path), pairs)
    assert (tmp_path / "labels.txt").read_text() == "0\tbackground\n1\tred\n2\tblue\n"
    assert "N_CLASSES: 3\n" in (tmp_path / "dataset.yaml").read_text()
    export(format_of("mmsegmentation"), Job(tmp_path, ("background", 'a "quoted"', "b")), pairs)
    settings = runpy.run_path(str(tmp_path / "dataset.py"))
    palette = [[0, 0, 0], [128, 0, 0], [0, 128, 0]]
    assert settings["metainfo"] == {"classes": ["background", 'a "quoted"', "b"], "palette": palette}
    assert settings["val_dataloader"]["dataset"]["ann_file"] == "lists/train.txt"


def test_the_mask_of_a_replaced_photo_is_not_exported(tmp_path: Path) -> None:
    pairs = items(tmp_path, ("a", "b"))
    for _, image, mask in pairs:
        write_mask(mask, read_mask(mask), made_by=record_text({"source": source_of(image)}))
    replace_photo(pairs[1][1])
    done = export(format_of("deeplab-pytorch"), job_of(tmp_path / "out"), {"train": pairs})
    assert done.pairs == {"train": 1} and [image_id for image_id, _ in done.failures] == ["b"]
    assert "made from another photo" in done.failures[0][1]


class Catalog(dict):
    """What detectron2's two catalogs do with a registration."""

    def register(self, name: str, function: Any) -> None:
        self[name] = function

    def get(self, name: str) -> Any:  # type: ignore[override]
        return self.setdefault(name, Catalog())

    def set(self, **entries: Any) -> None:
        self.update(entries)


def load_sem_seg(masks: str, images: str) -> list[tuple[str, str]]:
    """Its rules: `.png` and `.jpg` right in the two folders, matched by name."""
    names = [
        sorted(path.stem for path in Path(folder).glob(f"*.{end}")) for folder, end in ((masks, "png"), (images, "jpg"))
    ]
    assert names[0] == names[1]
    return [(f"{images}/{name}.jpg", f"{masks}/{name}.png") for name in names[0]]


def test_detectron2_gets_its_catalogs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train, unseen, out = items(tmp_path, ("a", "sub/b.c")), items(tmp_path / "unseen", ("a",)), tmp_path / "out"
    export(format_of("detectron2"), job_of(out, True), {"train": train, "val": unseen})
    data, metadata = Catalog(), Catalog()
    for name, members in {
        "detectron2": {},
        "detectron2.data": {"DatasetCatalog": data, "MetadataCatalog": metadata},
        "detectron2.data.datasets": {"load_sem_seg": load_sem_seg},
    }.items():
        module = ModuleType(name)
        vars(module).update(members)
        monkeypatch.setitem(sys.modules, name, module)
    runpy.run_path(str(out / "register.py"))
    pairs = data["pseudo_masks_train"]()
    assert [Path(image).name for image, _ in pairs] == ["a.jpg", "sub__b.c.jpg"]
    for seed, (image, mask) in enumerate(pairs):
        assert np.array_equal(np.array(Image.open(mask).convert("L")), scene(seed)[1])
        assert abs(np.array(Image.open(image)).astype(int) - scene(seed)[0]).mean() < 12
    assert len(data["pseudo_masks_val"]()) == 1
    assert metadata["pseudo_masks_val"]["stuff_classes"] == list(LABELS)
    assert metadata["pseudo_masks_val"]["ignore_label"] == 255


def test_fiftyone_finds_data_and_labels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the rules of its ImageSegmentationDirectory: files of data/ and labels/ match by their names."""
    out = tmp_path / "out"
    export(format_of("fiftyone"), job_of(out), {"train": items(tmp_path, ("a", "sub/b"))})
    calls: dict[str, Any] = {}
    module = ModuleType("fiftyone")
    dataset = ModuleType("dataset")
    vars(dataset)["save"] = lambda: None
    vars(module)["types"] = ModuleType("types")
    vars(module)["types"].ImageSegmentationDirectory = "directory"
    vars(module)["Dataset"] = type("Dataset", (), {"from_dir": lambda **given: calls.update(given) or dataset})
    monkeypatch.setitem(sys.modules, "fiftyone", module)
    loaded = runpy.run_path(str(out / "load.py"))["load"]()
    assert loaded.default_mask_targets == {**dict(enumerate(LABELS)), 255: "ignored"}
    folder = Path(calls["dataset_dir"])
    names = [sorted(path.stem for path in (folder / part).iterdir()) for part in ("data", "labels")]
    assert names == [["a", "sub__b"]] * 2 and calls["dataset_type"] == "directory"
    assert np.array_equal(np.array(Image.open(folder / "labels/sub__b.png")), scene(1)[1])


@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_lists_what_it_cannot_take(tmp_path: Path, kind: str) -> None:
    """A damaged mask, a label of no class, and one name for two images; the good one is written, the main file too."""
    found = items(tmp_path, ("a", "b", "c", "a"))
    found[1][2].write_bytes(b"no mask")
    write_mask(found[2][2], np.full((64, 72), 3, np.uint8), made_by="{}")
    write_mask(found[0][2], scene(0)[1], made_by="{}")
    done = export(format_of(kind), job_of(tmp_path / "out"), {"train": found})
    assert done.pairs == {"train": 1} and [image_id for image_id, _ in done.failures] == ["b", "c", "a"]
    reasons = [reason for _, reason in done.failures]
    assert "not a readable mask" in reasons[0] and "label 3; expected 0 to 2, and 255" in reasons[1]
    assert "written under the same name" in reasons[2]
    assert (tmp_path / "out" / format_of(kind).main).exists() and done.unsure == 1
    assert not list((tmp_path / "out").rglob("*.tmp"))


@pytest.mark.parametrize("kind", ["voc", "cvat", "deeplab-pytorch", "mmsegmentation"])
def test_two_photos_of_one_name_do_not_share_a_folder(tmp_path: Path, kind: str) -> None:
    train, unseen = items(tmp_path, ("a",)), items(tmp_path / "unseen", ("a", "u"))
    done = export(format_of(kind), job_of(tmp_path / "out", True), {"train": train, "val": unseen})
    assert done.pairs == {"train": 1, "val": 1} and [image_id for image_id, _ in done.failures] == ["a"]


@pytest.mark.parametrize("kind", FORMATS)
def test_nothing_is_written_through_a_link_out_of_the_output(tmp_path: Path, kind: str) -> None:
    """Wherever the format puts images and masks: sub-folders that lead elsewhere are refused, image by image."""
    found, out = items(tmp_path, ("a",)), tmp_path / "out"
    export(format_of(kind), job_of(out), {"train": found})
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    folders = sorted({path.parent for path in out.rglob("a.*")})
    for folder in folders:
        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()
        folder.symlink_to(elsewhere)
    if folders:
        with pytest.raises(UserError, match="a link that leads out of"):
            export(format_of(kind), job_of(out), {"train": found})
    assert list(elsewhere.iterdir()) == []


@pytest.mark.parametrize("kind", FORMATS)
def test_files_of_an_earlier_export_are_told_where_they_count(tmp_path: Path, kind: str) -> None:
    """Where a tool takes what lies in its folders, the image that is exported no more is named; else nothing is."""
    found, out = items(tmp_path, ("a", "b")), tmp_path / "out"
    for _ in range(2):
        assert export(format_of(kind), job_of(out), {"train": found}).strangers == []
    left = export(format_of(kind), job_of(out), {"train": found[:1]}).strangers
    by_folder = {"detectron2", "fiftyone", "hf", "labelme", "ultralytics", "yolo-seg"}
    assert [Path(place).stem for place in left] == ["b", "b"] * (kind in by_folder)
    assert all((out / place).exists() for place in left)


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("copy", [False, True])
def test_a_picture_that_lies_in_the_way_stays(tmp_path: Path, kind: str, copy: bool) -> None:
    """Neither a photo nor a mask that somebody else put there is lost: the image fails, or nothing lies in its way."""
    found, out = items(tmp_path, ("a", "b")), tmp_path / "out"
    export(format_of(kind), job_of(out, copy=copy), {"train": found})
    places = [path for path in out.rglob("a.*") if path.suffix in (".png", ".jpg")]
    for place in places:
        place.unlink()
        Image.new("RGB", (5, 5)).save(place)
    before = {place: place.read_bytes() for place in places}
    done = export(format_of(kind), job_of(out, copy=copy), {"train": found})
    assert [image_id for image_id, _ in done.failures] == ["a"] * bool(places)
    assert all(place.read_bytes() == content for place, content in before.items())
