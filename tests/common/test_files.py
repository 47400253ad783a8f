"""Whole files or none, and ids that stay in their folder."""

import errno
import fcntl
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import IO

import pytest

from common.errors import StopRun, UserError
from common.files import atomic_write, need_dir, need_file, sweep_leftovers, write_text
from tests.support import ROOT, tree


def test_a_file_is_written_with_its_folders(tmp_path: Path) -> None:
    write_text(tmp_path / "a" / "b" / "f.txt", "grün\n")
    assert tree(tmp_path) == {"a/b/f.txt": "grün\n".encode()}


@pytest.mark.parametrize("before", [None, b"old"])
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
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


def test_content_reaches_the_disk_before_the_name_and_the_folder_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a power cut a renamed but unsynced file may be empty, and an unsynced name lost."""
    seen: list[tuple[str, bool]] = []
    really = os.fsync

    def fsync(number: int) -> None:
        kind = "folder" if stat.S_ISDIR(os.fstat(number).st_mode) else "file"
        seen.append((kind, (tmp_path / "f").exists()))
        really(number)

    monkeypatch.setattr(os, "fsync", fsync)
    write_text(tmp_path / "f", "text")
    assert seen == [("file", False), ("folder", True)]


def test_two_writers_at_once_do_not_meet(tmp_path: Path) -> None:
    with atomic_write(tmp_path / "f") as one, atomic_write(tmp_path / "f") as other:
        one.write(b"1" * 10)
        other.write(b"2" * 5)
    assert tree(tmp_path) == {"f": b"1" * 10}


def test_a_link_is_replaced_and_not_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_text("untouched")
    (tmp_path / "link").symlink_to(outside)
    write_text(tmp_path / "link", "new")
    assert outside.read_text() == "untouched" and not (tmp_path / "link").is_symlink()


# --- a full disk ----------------------------------------------------------------------------------


KINDS = {errno.ENOSPC: StopRun, errno.EDQUOT: StopRun, errno.EFBIG: StopRun, errno.EIO: UserError}


@pytest.mark.parametrize("number", KINDS)
def test_no_room_ends_the_run_and_other_trouble_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    (tmp_path / "f").write_text("old")

    def refused(_: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", refused)
    with pytest.raises(KINDS[number]) as caught:
        write_text(tmp_path / "f", "new")
    assert type(caught.value) is KINDS[number] and "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"{tmp_path / 'f'}: cannot be written ({os.strerror(number)})")
    assert tree(tmp_path) == {"f": b"old"}


LIMITED = """
import resource, sys
from pathlib import Path
from common.errors import StopRun
from common.files import atomic_write
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    with atomic_write(Path(sys.argv[1])) as stream:
        stream.write(b"x" * int(sys.argv[2]))
except StopRun as error:
    raise SystemExit(f"stopped: {error}")
"""


@pytest.mark.parametrize(("size", "fits"), [(1000, True), (1001, False)])
def test_a_real_limit(tmp_path: Path, size: int, fits: bool) -> None:
    """Of the size of files (`ulimit -f`): the nearest to a full disk that needs no rights."""
    command = [sys.executable, "-c", LIMITED, str(tmp_path / "f"), str(size)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    said = "" if fits else f"stopped: {tmp_path / 'f'}: cannot be written (File too large)\n"
    assert ended.stderr == said and ended.returncode == (0 if fits else 1)
    assert tree(tmp_path) == ({"f": b"x" * size} if fits else {})


# --- leftovers ------------------------------------------------------------------------------------

WRITING = """
import sys, time
from pathlib import Path
from common.files import atomic_write
with atomic_write(Path(sys.argv[1])) as stream:
    stream.write(b"half")
    stream.flush()
    print("writing", flush=True)
    sys.stdin.readline()
    stream.write(b" and half")
"""


def writer(path: Path) -> "subprocess.Popen[str]":
    """A process in the middle of writing a file; a line on its stdin lets it end."""
    command = [sys.executable, "-c", WRITING, str(path)]
    process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "writing\n"
    return process


def test_what_a_killed_writer_leaves_is_swept_and_a_live_one_is_not_disturbed(tmp_path: Path) -> None:
    (tmp_path / "old.npz").write_bytes(b"whole")
    with writer(tmp_path / "a" / "b" / "killed.npz") as killed, writer(tmp_path / "a" / "live.npz") as live:
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        assert len(tree(tmp_path)) == 3
        assert sweep_leftovers(tmp_path) == 1 and sweep_leftovers(tmp_path) == 0
        assert list(tree(tmp_path).values()) == [b"half", b"whole"]
        live.communicate("end\n")
        assert live.returncode == 0
    assert tree(tmp_path) == {"a/live.npz": b"half and half", "old.npz": b"whole"}


def test_a_writer_swept_before_it_has_its_lock_writes_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the creation of a file and its lock, it looks as if its owner had been killed."""
    really, swept = fcntl.flock, []

    def flock(stream: IO[bytes], how: int) -> None:
        if not how & fcntl.LOCK_NB and len(swept) < 3:
            swept.append(sweep_leftovers(tmp_path))
        really(stream, how)

    monkeypatch.setattr(fcntl, "flock", flock)
    write_text(tmp_path / "f", "text")
    assert swept == [1, 1, 1] and tree(tmp_path) == {"f": b"text"}


def test_nothing_else_is_swept(tmp_path: Path) -> None:
    """Not a user's files, not what lies behind a link, not folders."""
    theirs = tmp_path / "theirs"
    out = tmp_path / "out"
    theirs.mkdir()
    out.mkdir()
    (theirs / ".12.0123abcd.tmp").write_text("behind a link")
    (out / "link").symlink_to(theirs)
    (out / ".13.0123abcd.tmp").symlink_to(theirs / ".12.0123abcd.tmp")
    (out / ".14.0123abcd.tmp").mkdir()
    for name in (".tmp", "x.tmp", ".12.0123abcd.tmp.npz", ".12.0123ABCD.tmp", ".a.0123abcd.tmp"):
        (out / name).write_text("theirs")
    before = {path: path.lstat().st_ino for path in tmp_path.rglob("*")}
    assert sweep_leftovers(out) == 0
    assert {path: path.lstat().st_ino for path in tmp_path.rglob("*")} == before
    assert sweep_leftovers(tmp_path) == 1  # that one lies in a folder of its own now


def test_without_locks_only_old_files_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some network file systems have none."""

    def flock(stream: IO[bytes], how: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    for number, age in ((1, 0), (2, 23 * 3600), (3, 25 * 3600)):
        path = tmp_path / f".{number}.0123abcd.tmp"
        path.write_text("")
        os.utime(path, (time.time() - age,) * 2)
    write_text(tmp_path / "f", "text")
    assert sweep_leftovers(tmp_path) == 1
    assert tree(tmp_path).keys() == {".1.0123abcd.tmp", ".2.0123abcd.tmp", "f"}


RACING = """
import sys
from pathlib import Path
from common.files import sweep_leftovers, write_text
for index in range(150):
    sweep_leftovers(Path(sys.argv[1]))
    write_text(Path(sys.argv[1]) / f"{index % 5}", sys.argv[2] * 3000)
"""


def test_processes_that_write_and_sweep_at_once_do_not_disturb_each_other(tmp_path: Path) -> None:
    commands = [[sys.executable, "-c", RACING, str(tmp_path), sign] for sign in "abc"]
    processes = [subprocess.Popen(command, cwd=ROOT) for command in commands]
    assert [process.wait() for process in processes] == [0, 0, 0]
    found = tree(tmp_path)
    assert found.keys() == set("01234")
    assert all(data in {sign * 3000 for sign in (b"a", b"b", b"c")} for data in found.values())


# --- names and places -----------------------------------------------------------------------------


def test_needed_paths(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("")
    assert need_dir(tmp_path, "--x", "things") == tmp_path
    assert need_file(tmp_path / "f", "--x", "things") == tmp_path / "f"
    with pytest.raises(UserError, match=r"--x .*/f: no such folder; expected things"):
        need_dir(tmp_path / "f", "--x", "things")
    with pytest.raises(UserError, match=r"--x .*: no such file; expected things"):
        need_file(tmp_path, "--x", "things")
