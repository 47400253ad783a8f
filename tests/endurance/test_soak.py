"""A long list of images, one in twenty of them broken: what is whole gets its mask, what is broken is named.

The list has SOAK_IMAGES images (not given: 120):
SOAK_IMAGES=2000 bash scripts/test.sh -m long -s tests/endurance/test_soak.py     (-s shows what was said of each way)
"""

import io
import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.errors import UserError
from common.images import image_size, read_image
from dataset.split_file import read_split
from dataset.voc_layout import find_image, read_labels
from pipeline.files.cam_file import read_maps, save_cams
from pipeline.steps.maps import Cams
from tests.endurance import soak
from tests.endurance.broken import LONG_ID, ODD, all_breaks, cam_files
from tests.endurance.soak_data import DataSet, Source, make_set, make_sources
from tests.endurance.started import bound_by_rights
from toyworld.spec import CLASSES

pytestmark = pytest.mark.slow

IMAGES = int(os.environ.get("SOAK_IMAGES", "120"))
MARGIN_MB = 64  # threads and allocators take that much more or less from run to run
BREAKS = all_breaks(with_rights=False)


@pytest.mark.long
def test_a_long_list_with_broken_images_loses_nothing(tmp_path: Path) -> None:
    prefix = bound_by_rights()
    breaks = all_breaks(with_rights=prefix is not None)
    runs = soak.Soak(tmp_path, min(100, IMAGES // 4), breaks, prefix or [])
    few, many = runs.run(max(IMAGES // 10, 2 * len(breaks))), runs.run(IMAGES)
    print("\n| broken how | times | what is said of it |\n| --- | --- | --- |")
    for way, (times, said) in runs.reasons.items():
        print(f"| {way} | {times} | {said} |")
    print("peak MB of the short list and of the long one:", few, many)
    assert set(runs.reasons) == {*breaks, *cam_files(tmp_path)}
    for module, peak in many.items():
        assert peak is None or peak <= few[module] + MARGIN_MB, module


# --- the data -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> list[Source]:
    return make_sources(tmp_path_factory.mktemp("sources"), 2)


def test_whole_images_can_be_read_and_broken_ones_cannot(sources: list[Source], tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/secret.txt").write_text("house")
    data = make_set(tmp_path / "data", tmp_path / "outside", sources, BREAKS, 90, 0.05)
    assert len(data.ids) == len(set(data.ids)) == 90 and set(data.ids) == {*data.whole, *data.broken}
    assert sorted(data.broken.values()) == sorted(BREAKS) and {s.name for s in data.whole.values()} >= {*ODD}
    assert all(kind in image_id or kind == LONG_ID for image_id, kind in data.broken.items())
    assert read_split(data.root / "ImageSets/Segmentation/train.txt") == data.ids
    for image_id in data.whole:
        read(data, image_id)
    for image_id in data.broken:
        with pytest.raises(UserError):
            read(data, image_id)


def read(data: DataSet, image_id: str) -> None:
    """What the stages read of an image."""
    read_labels(data.root / "Annotations" / f"{image_id}.xml", CLASSES)
    image = find_image(data.root / "JPEGImages", image_id)
    assert read_image(image).size[::-1] == image_size(image) == data.whole[image_id].size


@pytest.mark.parametrize("way", cam_files(Path("mark")))
def test_cam_files_that_mean_harm_are_refused(way: str, tmp_path: Path) -> None:
    maps = np.linspace(0, 1, 32, dtype=np.float32).reshape(2, 4, 4)
    save_cams(tmp_path / "a.npz", Cams(np.array([1, 3]), maps, maps, (60, 60)), {})
    read_maps(tmp_path / "a.npz", "attn_highres", 8)
    data = cam_files(tmp_path / "mark")[way]((tmp_path / "a.npz").read_bytes())
    (tmp_path / "a.npz").write_bytes(data)
    with pytest.raises(UserError):
        read_maps(tmp_path / "a.npz", "attn_highres", 8)
    assert not (tmp_path / "mark").exists()


def test_the_payload_would_run(tmp_path: Path) -> None:
    """Else the soak could not see that code was run."""
    stream = io.BytesIO()
    np.savez(stream)
    harmful = io.BytesIO(cam_files(tmp_path / "mark")["cam_pickled"](stream.getvalue()))
    with np.load(harmful, allow_pickle=True) as arrays:
        _ = arrays["keys"]
    assert (tmp_path / "mark").is_dir()


# --- what is looked at ----------------------------------------------------------------------------


def test_files_that_are_wrong_are_seen(tmp_path: Path) -> None:
    for name, data in {"a.png": b"1", "deep/b.png": b"2", "c.png": b"?", "run.json": b"", ".4.tmp": b""}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(data)
    wanted = {"a.png": b"1", "deep/b.png": b"2", "c.png": b"3", "d.png": b"4"}
    troubles = ["d.png: missing", ".4.tmp: nobody asked for it", "c.png: other bytes"]
    assert soak.compare_files(tmp_path, wanted) == troubles


def test_failures_and_counts_that_are_wrong_are_seen(tmp_path: Path) -> None:
    source = Source("s", Path("s.jpg"), Path("s.xml"), Path("s.png"), (4, 5))
    data = DataSet(tmp_path, ["a", "b", "c", "d"], {"a": source, "c": source}, {"b": "x", "d": "y"})
    counts = {"images": 4, "made": 2, "kept": 0, "failed": 2}

    def troubles(ids: str, **changed: int) -> list[str]:
        (tmp_path / "run.json").write_text(json.dumps({"status": "incomplete", "counts": counts | changed}))
        (tmp_path / "failures.jsonl").write_text("".join(json.dumps({"id": image_id}) + "\n" for image_id in ids))
        return soak.compare_failures(tmp_path, data)

    assert troubles("bd") == []
    assert "order" in troubles("db")[0] and "twice" in troubles("bdd")[0]
    assert troubles("ad") == ["b: not named", "a: named without reason"]
    assert troubles("bd", made=3)[0].startswith("run.json: ('incomplete', ")
    (tmp_path / "run.json").unlink()
    assert soak.compare_failures(tmp_path, data)[0].startswith("run.json: ")


def test_masks_of_another_size_or_kind_are_seen(tmp_path: Path) -> None:
    source = Source("s", Path("s.jpg"), Path("s.xml"), Path("s.png"), (4, 5))
    data = DataSet(tmp_path, ["a", "b", "c"], dict.fromkeys("abc", source))
    for name, mode, size in (("a", "L", (5, 4)), ("b", "L", (4, 5)), ("c", "P", (5, 4))):
        Image.new(mode, size).save(tmp_path / f"{name}.png")
    assert [trouble.split(":")[0] for trouble in soak.compare_sizes(tmp_path, data)] == ["b.png", "c.png"]


def test_words_and_codes_that_are_wrong_are_seen() -> None:
    assert soak.compare_output("3 images failed:", 3) == []
    assert len(soak.compare_output(f"Traceback: {soak.SECRET}", 1)) == 3 and len(soak.compare_output("", 0)) == 1


def test_changes_outside_the_output_folder_are_seen(tmp_path: Path) -> None:
    for name in ("data/a", "out/b"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text("1")
    before = soak.states(tmp_path, tmp_path / "out")
    (tmp_path / "out/b").write_text("22")
    assert soak.states(tmp_path, tmp_path / "out") == before
    (tmp_path / "data/a").write_text("22")
    assert soak.states(tmp_path, tmp_path / "out") != before
