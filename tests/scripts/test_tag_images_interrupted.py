"""scripts/tag_images.py: nothing finished is lost, what is left out is said once, mistakes are told early."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dataset.mask_png import write_mask
from pipeline.stages import tags as stage_tags
from tests.support import Command, Ended, replace_photo

Tagging = Callable[..., Ended]


class Scorer:
    """Counts the images that are looked at, and ends the run at one of them as `error` does."""

    def __init__(self) -> None:
        self.looks, self.last = 0, -1
        self.error: type[BaseException] = KeyboardInterrupt
        self.really = stage_tags.class_scores

    def __call__(self, *args: Any) -> np.ndarray:
        if self.looks == self.last:
            raise self.error
        self.looks += 1
        return self.really(*args)


@pytest.fixture
def scorer(monkeypatch: pytest.MonkeyPatch) -> Scorer:
    scorer = Scorer()
    monkeypatch.setattr(stage_tags, "class_scores", scorer)
    return scorer


@pytest.fixture
def tagging(command: Command, world: Path, weights: Path, tmp_path: Path) -> Tagging:
    """The command on the five images, written to tags.txt."""
    data = ("--dataset", "voc12", "--img_root", world, "--model", weights, "--templates", "dataset", "--device", "cpu")
    return lambda *more: command("scripts.tag_images", *data, "--out", tmp_path / "tags.txt", *more)


@pytest.fixture
def whole(tagging: Tagging, scorer: Scorer, tmp_path: Path) -> bytes:
    """The label file of a run that nothing interrupts, which is then taken away."""
    assert tagging().code == 0 and scorer.looks == 5
    written = (tmp_path / "tags.txt").read_bytes()
    (tmp_path / "tags.txt").unlink()
    scorer.looks = 0
    return written


def interrupt(tagging: Tagging, scorer: Scorer, after: int) -> None:
    scorer.looks, scorer.last = 0, after
    assert tagging().code == 130
    scorer.looks, scorer.last = 0, -1


def test_an_interrupted_run_goes_on(tagging: Tagging, scorer: Scorer, whole: bytes, tmp_path: Path) -> None:
    interrupt(tagging, scorer, after=2)
    assert not (tmp_path / "tags.txt").exists()
    ended = tagging()
    assert ended.code == 0 and scorer.looks == 3 and "3 label lines written, 2 already there" in ended.out
    assert (tmp_path / "tags.txt").read_bytes() == whole
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("tags")] == ["tags.txt"]


def test_so_does_one_that_was_killed_in_the_middle_of_a_line(
    tagging: Tagging, scorer: Scorer, whole: bytes, tmp_path: Path
) -> None:
    interrupt(tagging, scorer, after=3)
    part = tmp_path / "tags.txt.part"
    part.write_bytes(part.read_bytes()[:-7])
    interrupt(tagging, scorer, after=1)
    assert tagging().code == 0 and scorer.looks == 2
    assert (tmp_path / "tags.txt").read_bytes() == whole


def test_a_photo_that_was_replaced_meanwhile_is_looked_at_again(
    tagging: Tagging, scorer: Scorer, whole: bytes, world: Path
) -> None:
    interrupt(tagging, scorer, after=2)
    replace_photo(world / "JPEGImages" / "a.jpg")
    ended = tagging()
    assert ended.code == 0 and scorer.looks == 4 and "4 label lines written, 1 already there" in ended.out


def test_a_crash_loses_nothing_and_leaves_the_old_file(
    tagging: Tagging, scorer: Scorer, whole: bytes, tmp_path: Path
) -> None:
    (tmp_path / "tags.txt").write_text("old 1\n")
    scorer.last, scorer.error = 4, MemoryError
    with pytest.raises(MemoryError):
        tagging()
    assert (tmp_path / "tags.txt").read_text() == "old 1\n"
    scorer.looks, scorer.last = 0, -1
    assert tagging().code == 0 and scorer.looks == 1
    assert (tmp_path / "tags.txt").read_bytes() == whole


@pytest.mark.parametrize("option", [("--tag_candidates", "0.1"), ("--tag_threshold", "0.9"), ("--activation", "gelu")])
def test_other_settings_start_anew(tagging: Tagging, scorer: Scorer, whole: bytes, option: tuple[str, str]) -> None:
    interrupt(tagging, scorer, after=2)
    assert tagging(*option).code == 0 and scorer.looks == 5


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"no record\n"])
def test_a_damaged_part_is_no_trouble(
    tagging: Tagging, scorer: Scorer, whole: bytes, tmp_path: Path, content: bytes
) -> None:
    (tmp_path / "tags.txt.part").write_bytes(content)
    assert tagging().code == 0 and scorer.looks == 5 and (tmp_path / "tags.txt").read_bytes() == whole


@pytest.mark.parametrize("option", ["--out", "--json"])
def test_what_cannot_be_written_is_told_before_the_work(
    tagging: Tagging, scorer: Scorer, tmp_path: Path, option: str
) -> None:
    (tmp_path / "folder").mkdir()
    ended = tagging(option, tmp_path / "folder")
    assert ended.code == 2 and ended.err.count("\n") == 1 and scorer.looks == 0
    assert ended.err.startswith(f"error: {option} {tmp_path / 'folder'}: a folder; expected the name of a file")


def test_what_is_left_out_is_said_once(command: Command, world: Path, weights: Path, tmp_path: Path) -> None:
    photos = world / "JPEGImages"
    write_mask(photos / "m.png", np.zeros((9, 9), np.uint8))
    (tmp_path / "classes.txt").write_text("dog\ncat\n")
    (tmp_path / "labels.csv").write_text("image,labels\na,dog\nb,cat\nnowhere,cat\n")
    own = ("--dataset", "folder", "--img_root", photos, "--classes", tmp_path / "classes.txt", "--device", "cpu")
    run = ("--model", weights, "--templates", "dataset", "--out", tmp_path / "tags.txt")
    ended = command("scripts.tag_images", *own, *run, "--labels", tmp_path / "labels.csv")
    assert ended.code == 0 and ended.err.count("left out: 1 picture that this project wrote") == 1
    assert "1 label without image" in ended.err and "3 images without labels" in ended.err
    assert "tags against the true labels: 2 images" in ended.out
