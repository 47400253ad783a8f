"""Files on fsspec addresses, here `memory://`: what is found, fetched and put, and what is refused."""

from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("fsspec", reason="needs requirements-ray.txt")

import fsspec

from cli import engines
from common.errors import UserError
from engine.mirror import mirrored
from engine.remote import (
    Address,
    Mirror,
    check_visible,
    fetch,
    is_there,
    list_files,
    path_or_address,
    probe_file,
    put,
    put_small,
)
from tests.support import Command, write_world

BUCKET = "memory://bucket"


@pytest.fixture(autouse=True)
def store() -> Iterator[fsspec.AbstractFileSystem]:
    """An empty store of its own for every test."""
    files = fsspec.filesystem("memory")
    files.store.clear()
    yield files
    files.store.clear()


@pytest.fixture
def here(tmp_path: Path) -> Mirror:
    return Mirror(tmp_path / "here")


def uploaded(files: fsspec.AbstractFileSystem, folder: Path, address: str) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            files.pipe_file(f"{address}/{path.relative_to(folder).as_posix()}", path.read_bytes())


# --- addresses ------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["s3://bucket/photos", "gs://b", "memory://a/b c"])
def test_an_address_keeps_its_two_slashes(text: str) -> None:
    assert path_or_address(f"{text}/") == text and isinstance(path_or_address(text), Address)


@pytest.mark.parametrize(("text", "path"), [("photos", "photos"), ("/a/b", "/a/b"), ("file:///a/b", "/a/b")])
def test_a_path_stays_a_path(text: str, path: str) -> None:
    assert path_or_address(text) == Path(path)


def test_the_stand_in_of_an_address_and_back(here: Mirror) -> None:
    path = here.path("s3://bucket/photos/a 1.jpg")
    assert path == here.folder / "s3" / "bucket" / "photos" / "a 1.jpg"
    assert here.with_addresses(f"{path}: no such image") == "s3://bucket/photos/a 1.jpg: no such image"
    assert here.address(path) == "s3://bucket/photos/a 1.jpg" and here.address(Path("photos")) == ""


@pytest.mark.parametrize("address", ["s3://bucket/../../etc/passwd", "s3://", "../x://bucket/a", "s3://b/\0"])
def test_an_address_that_leaves_the_folder_is_refused(address: str, here: Mirror) -> None:
    with pytest.raises(UserError):
        here.path(address)


# --- files ----------------------------------------------------------------------------------------


def test_names_below_an_address_and_no_neighbours(store: fsspec.AbstractFileSystem) -> None:
    for name in ("photos/b.jpg", "photos/a/x.jpg", "photos2/c.jpg", "photos.txt"):
        store.pipe_file(f"bucket/{name}", b"x")
    assert list_files(f"{BUCKET}/photos") == (["a/x.jpg", "b.jpg"], [])
    assert list_files(f"{BUCKET}/nothing") == ([], [])


def test_names_that_climb_are_set_aside(store: fsspec.AbstractFileSystem) -> None:
    for name in ("/bucket/p/ok.jpg", "/bucket/p/../../evil.jpg", "/bucket/p/a//b.jpg", "/bucket/p/./c.jpg"):
        store.store[name] = fsspec.implementations.memory.MemoryFile(store, name, b"x")
    names, refused = list_files(f"{BUCKET}/p")
    assert names == ["ok.jpg"] and len(refused) == 3


def test_what_is_put_comes_back(here: Mirror, tmp_path: Path) -> None:
    addresses = [f"{BUCKET}/deep/{index}.npz" for index in range(70)]  # more than are in memory together
    for index, address in enumerate(addresses):
        here.path(address).parent.mkdir(parents=True, exist_ok=True)
        here.path(address).write_bytes(bytes([index]) * index)
    put(addresses, here)
    other = Mirror(tmp_path / "other")
    assert fetch(addresses, other) == {}
    assert [other.path(address).read_bytes() for address in addresses] == [bytes([i]) * i for i in range(70)]


def test_signs_of_patterns_in_names_are_names(here: Mirror) -> None:
    for name, content in (("a[1].jpg", b"one"), ("a1.jpg", b"other"), ("b*.jpg", b"star"), ("bx.jpg", b"x")):
        put_small(f"{BUCKET}/{name}", content)
    fetch([f"{BUCKET}/a[1].jpg", f"{BUCKET}/b*.jpg"], here)
    found = {path.name: path.read_bytes() for path in here.path(BUCKET).iterdir()}
    assert found == {"a[1].jpg": b"one", "b*.jpg": b"star"}


def test_files_that_are_not_there_are_left_out(here: Mirror) -> None:
    put_small(f"{BUCKET}/a", b"abcdef")
    assert fetch([f"{BUCKET}/a", f"{BUCKET}/b"], here) == {}
    assert [path.name for path in here.path(BUCKET).iterdir()] == ["a"]


def test_a_file_that_cannot_be_read_is_told_by_its_address(
    here: Mirror, store: fsspec.AbstractFileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_small(f"{BUCKET}/a", b"a")
    put_small(f"{BUCKET}/b", b"b")
    read = type(store).cat_file

    def broken(files: object, path: str, *more: object, **options: object) -> bytes:
        if path.endswith("a"):
            raise PermissionError("Access\nDenied")
        return read(files, path, *more, **options)

    monkeypatch.setattr(type(store), "cat_file", broken)
    troubles = fetch([f"{BUCKET}/a", f"{BUCKET}/b"], here)
    assert list(troubles) == [f"{BUCKET}/a"] and "Access Denied" in troubles[f"{BUCKET}/a"]
    assert here.path(f"{BUCKET}/b").read_bytes() == b"b"


def test_a_file_system_gets_a_hidden_name_first(tmp_path: Path, here: Mirror, monkeypatch: pytest.MonkeyPatch) -> None:
    """fsspec's own local file system stands for those that are no object stores."""
    target = f"local://{tmp_path}/out/a.npz"
    opened: list[str] = []

    def watched(files: object, path: str, value: bytes, **_: object) -> None:
        opened.append(path)
        Path(path).write_bytes(value)

    monkeypatch.setattr(fsspec.get_filesystem_class("local"), "pipe_file", watched)
    put_small(target, b"whole")
    assert (tmp_path / "out" / "a.npz").read_bytes() == b"whole"
    assert len(opened) == 1 and Path(opened[0]).name.startswith(".a.npz.") and not Path(opened[0]).exists()


@pytest.mark.parametrize("address", ["nosuch://bucket/a", "s3:/x://"])
def test_an_unknown_kind_of_address_is_one_line(address: str) -> None:
    with pytest.raises(UserError) as error:
        is_there(address)
    assert "\n" not in str(error.value) and address in str(error.value)


def test_a_mark_that_is_seen_and_one_that_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.remote.NETWORK_FOLDER_S", 0)
    for folder in (str(tmp_path), BUCKET):
        with probe_file(folder) as mark:
            if "://" in mark:
                check_visible(mark)
        with pytest.raises(UserError, match="does not see"):
            check_visible(mark)
    assert list(tmp_path.iterdir()) == [] and list_files(BUCKET) == ([], [])


# --- what the driver sees -------------------------------------------------------------------------

WORLD = {"a": ((8, 9), ["dog"]), "b": ((9, 8), ["cat"])}


@pytest.mark.parametrize("root", ["VOC2012", "VOC2012/JPEGImages"])
def test_a_data_set_in_vocs_layout_stands_in(root: str, store: fsspec.AbstractFileSystem, tmp_path: Path) -> None:
    uploaded(store, write_world(tmp_path / "VOC2012", WORLD), "bucket/VOC2012")
    from cli.lookup import select

    given = {"img_root": Address(f"{BUCKET}/{root}")}
    with mirrored(given, "cam_out_dir", ("ImageSets", "Annotations")) as (here, paths):
        selection = select("voc12", paths["img_root"], None, None)
        samples, failures = selection.samples()
        assert [(sample.id, sample.labels) for sample in samples] == [("a", (11,)), ("b", (7,))] and failures == []
        assert [sample.image.stat().st_size for sample in samples] == [0, 0]  # no image is fetched
        spelled = [here.with_addresses(sample.image) for sample in samples]
    assert spelled == [f"{BUCKET}/VOC2012/JPEGImages/{key}.jpg" for key in "ab"]
    assert not here.folder.exists()


def test_small_files_are_fetched_and_notes_go_back(store: fsspec.AbstractFileSystem) -> None:
    for name, content in {
        "photos/x/a.jpg": b"1",
        "classes.txt": b"dog",
        "labels.csv": b"image,labels\n",
        "cams/run.json": b"{}",
        "cams/failures.jsonl": b"old",
    }.items():
        store.pipe_file(f"bucket/{name}", content)
    places = {"img_root": "photos", "classes": "classes.txt", "labels": "labels.csv", "cam_out_dir": "cams"}
    given = {name: Address(f"{BUCKET}/{where}") for name, where in places.items()}
    with mirrored(given, "cam_out_dir") as (_, paths):
        assert paths["classes"].read_bytes() == b"dog" and paths["labels"].read_bytes() == b"image,labels\n"
        assert paths["img_root"].parts[-2:] == ("bucket", "photos")
        assert (paths["cam_out_dir"] / "run.json").read_bytes() == b"{}"
        (paths["cam_out_dir"] / "run.json").write_bytes(b"new")
        (paths["cam_out_dir"] / "failures.jsonl").unlink()
    assert store.cat_file("bucket/cams/run.json") == b"new" and not store.exists("bucket/cams/failures.jsonl")


@pytest.mark.parametrize("name", ["img_root", "classes", "labels", "split_file"])
def test_an_address_with_nothing_there_is_one_line(name: str) -> None:
    given = {name: Address(f"{BUCKET}/none")}
    with pytest.raises(UserError, match=f"--{name} {BUCKET}/none: nothing there"), mirrored(given, "cam_out_dir"):
        pass


# --- without --engine ray -------------------------------------------------------------------------


@pytest.mark.parametrize("module", ["generate_cams", "eval_cam_with_crf"])
@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("--img_root", "s3://bucket/photos"), "s3://bucket/photos: an address; only --engine ray"),
        (("--dataset", "folder", "--labels", "s3://bucket/l.csv"), "s3://bucket/l.csv: an address"),
        (("--ray_workers", "3"), "--ray_workers goes with --engine ray"),
        (("--engine", "ray", "--labels", "clip"), "scripts.tag_images"),
        (("--engine", "ray", "--shard", "1/2"), "--shard 1/2 with --engine ray"),
    ],
)
def test_what_goes_with_ray_only_is_said_in_one_line(
    module: str, given: tuple[str, ...], said: str, command: Command
) -> None:
    ended = command(module, *given)
    assert ended.code == 2 and said in ended.err and len(ended.err.splitlines()) == 1


def test_without_ray_the_remedy_is_named(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "find_spec", lambda name: None)
    ended = command("generate_cams", "--engine", "ray")
    assert ended.code == 2 and "pip install -r requirements-ray.txt" in ended.err
