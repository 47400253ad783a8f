"""Whole files or none, and ids that stay in their folder."""

import os
from pathlib import Path

import pytest

from common.errors import UserError
from common.files import atomic_write, check_id, need_dir, need_file, write_text
from tests.support import tree

SOURCE = Path("split.txt")


def test_a_file_is_written_with_its_folders(tmp_path: Path) -> None:
    write_text(tmp_path / "a" / "b" / "f.txt", "grün\n")
    assert tree(tmp_path) == {"a/b/f.txt": "grün\n".encode()}


@pytest.mark.parametrize("before", [None, b"old"])
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit, MemoryError])
def test_an_error_in_the_middle_leaves_what_was_there(
    tmp_path: Path, before: bytes | None, error: type[BaseException]
) -> None:
    path = tmp_path / "f"
    if before is not None:
        path.write_bytes(before)
    with pytest.raises(error), atomic_write(path) as stream:
        stream.write(b"half of the new")
        stream.flush()
        raise error
    assert tree(tmp_path) == ({} if before is None else {"f": before})


def test_readers_see_the_old_file_until_the_new_one_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"old")
    with atomic_write(path) as stream:
        stream.write(b"new")
        stream.flush()
        assert path.read_bytes() == b"old"
        assert [other.name[0] for other in tmp_path.iterdir() if other != path] == ["."]  # hidden, beside the target
    assert tree(tmp_path) == {"f": b"new"}


def test_content_reaches_the_disk_before_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a power cut a renamed but unsynced file may be empty."""
    synced: list[bytes] = []
    monkeypatch.setattr(
        os, "fsync", lambda number: synced.append(os.pread(number, 100, 0) if _readable(number) else b"?")
    )
    real = Path.replace

    def replace(self: Path, target: Path) -> Path:
        assert synced, "renamed before it was synced"
        return real(self, target)

    monkeypatch.setattr(Path, "replace", replace)
    write_text(tmp_path / "f", "text")
    assert (tmp_path / "f").read_text() == "text"


def _readable(number: int) -> bool:
    try:
        os.pread(number, 1, 0)
    except OSError:
        return False
    return True


def test_two_writers_at_once_do_not_meet(tmp_path: Path) -> None:
    with atomic_write(tmp_path / "f") as one, atomic_write(tmp_path / "f") as other:
        one.write(b"1" * 10)
        other.write(b"2" * 5)
    assert tree(tmp_path) == {"f": b"1" * 10}


@pytest.mark.parametrize(
    "image_id", ["2007_000032", "COCO_train2014_000000000009", "a/b", "ümlaut", "a..b", "...", "-x"]
)
def test_ids_below_the_folder_are_taken(image_id: str) -> None:
    assert check_id(image_id, SOURCE) == image_id


@pytest.mark.parametrize(
    "image_id", ["../x", "a/../../x", "..", "/etc/passwd", "a\0b", "a\\b", "C:\\x", "", ".", "//x"]
)
def test_ids_that_leave_the_folder_are_refused(image_id: str) -> None:
    with pytest.raises(UserError, match=r"split\.txt: id .* leaves the image folder"):
        check_id(image_id, SOURCE)


def test_needed_paths(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("")
    assert need_dir(tmp_path, "--x", "things") == tmp_path
    assert need_file(tmp_path / "f", "--x", "things") == tmp_path / "f"
    with pytest.raises(UserError, match=r"--x .*/f: no such folder; expected things"):
        need_dir(tmp_path / "f", "--x", "things")
    with pytest.raises(UserError, match=r"--x .*: no such file; expected things"):
        need_file(tmp_path, "--x", "things")
