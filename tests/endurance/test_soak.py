"""What the soak looks at, by hand: lists with broken images, files that are wrong, failures; then a quick soak."""

import json
from pathlib import Path

import pytest
from PIL import Image

from common.errors import UserError
from common.images import image_size, read_image
from dataset.voc_layout import find_image, read_labels, read_split
from pipeline.files.cam_file import read_maps
from tests.endurance import soak
from tests.endurance.broken import LONG_ID, ODD, all_breaks, cam_files
from tests.endurance.soak_data import DataSet, Source, make_set, make_sources
from tests.support import Command
from toyworld.spec import CLASSES

BREAKS = all_breaks(with_rights=False)


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> list[Source]:
    return make_sources(tmp_path_factory.mktemp("sources"), 2)


# --- the data -------------------------------------------------------------------------------------


def test_whole_images_can_be_read_and_broken_ones_cannot(sources: list[Source], tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/secret.txt").write_text("house")
    data = make_set(tmp_path / "data", tmp_path / "outside", sources, BREAKS, 90, 0.05)
    assert len(data.ids) == len(set(data.ids)) == 90 and set(data.ids) == {*data.whole, *data.broken}
    assert sorted(data.broken.values()) == sorted(BREAKS) and {s.name for s in data.whole.values()} >= {*ODD}
    assert read_split(data.root / "ImageSets/Segmentation/train.txt") == data.ids
    for image_id in data.ids:
        if image_id in data.broken:
            with pytest.raises(UserError):
                read(data, image_id)
        else:
            read(data, image_id)
    assert [source.image.stat().st_nlink for source in sources if source.image.suffix == ".webp"] != [1]  # links
    again = DataSet(tmp_path / "again")
    assert [read(again, again_id) for again_id in again.ids] == []


def read(data: DataSet, image_id: str) -> None:
    """What the stages read of an image."""
    read_labels(data.root / "Annotations" / f"{image_id}.xml", CLASSES)
    image = find_image(data.root / "JPEGImages", image_id)
    assert read_image(image).size[::-1] == image_size(image) == data.whole[image_id].size


@pytest.mark.parametrize(("count", "share", "broken"), [(1000, 0.05, 50), (1000, 0.01, len(BREAKS)), (100, 0.5, 50)])
def test_how_many_are_broken(count: int, share: float, broken: int, sources: list[Source], tmp_path: Path) -> None:
    harmless = dict.fromkeys(BREAKS, lambda files: None)
    data = make_set(tmp_path / "data", tmp_path, sources, harmless, count, share)
    assert len(data.broken) == broken and len(data.ids) == count and set(data.broken.values()) == set(BREAKS)
    assert all(kind in image_id or kind == LONG_ID for image_id, kind in data.broken.items())


@pytest.mark.parametrize("way", cam_files(Path("mark")))
def test_cam_files_that_mean_harm_are_refused(way: str, tmp_path: Path) -> None:
    import numpy as np

    from pipeline.files.cam_file import save_cams
    from pipeline.steps.maps import Cams

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
    import io

    import numpy as np

    with np.load(io.BytesIO(cam_files(tmp_path / "mark")["cam_pickled"](empty_npz())), allow_pickle=True) as arrays:
        _ = arrays["keys"]
    assert (tmp_path / "mark").is_dir()


def empty_npz() -> bytes:
    import io

    import numpy as np

    stream = io.BytesIO()
    np.savez(stream)
    return stream.getvalue()


# --- what is looked at ----------------------------------------------------------------------------


def run_json(out: Path, **counts: int) -> None:
    (out / "run.json").write_text(json.dumps({"status": "incomplete", "counts": {"notes": {}, **counts}}))


def failures(out: Path, *ids: str) -> None:
    (out / "failures.jsonl").write_text("".join(json.dumps({"id": image_id}) + "\n" for image_id in ids))


def test_files_that_are_wrong_are_told(tmp_path: Path) -> None:
    for name, data in {"a.png": b"1", "deep/b.png": b"2", "c.png": b"?", "run.json": b"", ".4.tmp": b""}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(data)
    wanted = {"a.png": b"1", "deep/b.png": b"2", "c.png": b"3", "d.png": b"4"}
    right, troubles = soak.compare_files(tmp_path, wanted)
    assert right == 2 and troubles == ["d.png: missing", ".4.tmp: nobody asked for it", "c.png: other bytes"]


def test_failures_and_counts_that_are_wrong_are_told(tmp_path: Path) -> None:
    source = Source("s", Path("s.jpg"), Path("s.xml"), Path("s.png"), (4, 5))
    data = DataSet(tmp_path, ["a", "b", "c", "d"], {"a": source, "c": source}, {"b": "x", "d": "y"})
    counts = {"images": 4, "made": 2, "kept": 0, "failed": 2}
    run_json(tmp_path, **counts)
    failures(tmp_path, "b", "d")
    assert soak.compare_failures(tmp_path, data) == (2, [])
    failures(tmp_path, "d", "b")
    assert "order" in soak.compare_failures(tmp_path, data)[1][0]
    failures(tmp_path, "b", "d", "d")
    assert soak.compare_failures(tmp_path, data)[1]
    failures(tmp_path, "a", "d")
    assert soak.compare_failures(tmp_path, data)[1] == ["b: not named", "a: named without reason"]
    failures(tmp_path, "b", "d")
    run_json(tmp_path, **{**counts, "made": 3})
    assert soak.compare_failures(tmp_path, data)[1] == [f"run.json: ('incomplete', { ({**counts, 'made': 3}) })"]
    (tmp_path / "run.json").unlink()
    assert soak.compare_failures(tmp_path, data)[1][0].startswith("run.json: ")


def test_masks_of_another_size_or_kind_are_told(tmp_path: Path) -> None:
    source = Source("s", Path("s.jpg"), Path("s.xml"), Path("s.png"), (4, 5))
    data = DataSet(tmp_path, ["a", "b", "c"], dict.fromkeys("abc", source))
    for name, mode, size in (("a", "L", (5, 4)), ("b", "L", (4, 5)), ("c", "P", (5, 4))):
        Image.new(mode, size).save(tmp_path / f"{name}.png")
    found = soak.compare_sizes(tmp_path, data, ".png")
    assert [trouble.split(":")[0] for trouble in found] == ["b.png", "c.png"]
    assert soak.compare_sizes(tmp_path, data, ".npz") == []


def test_words_and_codes_that_are_wrong_are_told() -> None:
    assert soak.compare_output("3 images failed:", 3) == []
    assert len(soak.compare_output(f"Traceback: {soak.SECRET}", 1)) == 3 and len(soak.compare_output("", 0)) == 1


def test_memory_that_grows_is_told() -> None:
    rows = [{"command": name, "peak_mb": mb, "troubles": [], "wrong": 0} for name, mb in (("a", 100), ("b", None))]
    rows += [{"command": name, "peak_mb": mb, "troubles": [], "wrong": 0} for name, mb in (("a", 150), ("a", 151))]
    soak.check_growth(rows, 50)
    assert [row["troubles"] for row in rows] == [[], [], [], ["its peak memory grew by 51 MB"]]


def test_changes_outside_the_output_folder_are_seen(tmp_path: Path) -> None:
    for name in ("data/a", "out/b"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text("1")
    before = soak.states(tmp_path, tmp_path / "out")
    (tmp_path / "out/b").write_text("22")
    assert soak.states(tmp_path, tmp_path / "out") == before
    (tmp_path / "data/a").write_text("22")
    assert soak.states(tmp_path, tmp_path / "out") != before


def test_too_short_a_list_is_refused(command: Command) -> None:
    ended = command("tests.endurance.soak", "--images", 20)
    assert ended.code == 2 and "take more images" in ended.err


@pytest.mark.slow
@pytest.mark.long
def test_a_quick_soak_loses_nothing(command: Command, tmp_path: Path) -> None:
    ended = command("tests.endurance.soak", "--quick", "--json", tmp_path / "r.json")
    assert ended.code == 0, ended.err
    record = json.loads((tmp_path / "r.json").read_text())
    whole, broken = 60 - record["rows"][0]["broken"], record["rows"][0]["broken"]
    for row in record["rows"][:3]:
        assert (row["images"], row["right"], row["named"], row["code"]) == (60, whole, broken, 3)
    kinds = {row["kind"]: row["count"] for row in record["settings"]["kinds"]}
    assert set(kinds) >= {*BREAKS, *cam_files(tmp_path)} and broken >= len(BREAKS) > 25
