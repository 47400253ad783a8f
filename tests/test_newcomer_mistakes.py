"""The mistakes of tests/dataset/test_folder_mistakes.py made with the other commands: one line each, no traceback."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.support import Command, Ended, photo

OWN = ("--dataset", "folder", "--img_root", "photos", "--classes", "classes.txt")
OPTIONS = {
    "eval_cam": ("--cam_out_dir", "cams", "--gt_root", "truth"),
    "eval_cam_with_crf": ("--cam_out_dir", "cams", "--pseudo_mask_save_path", "new masks"),
    "scripts.report": ("--cam_out_dir", "cams", "--masks", "masks", "--gt_root", "truth", "--out", "new.html"),
    "scripts.preview": ("--cam_out_dir", "cams", "--out", "new.png"),
    "scripts.tag_images": ("--out", "new.txt", "--templates", "dataset", "--device", "cpu"),
}
READERS = [name for name in OPTIONS if name != "eval_cam"]  # those that read the photos themselves
SEGMENT = ("--labels", "dog", "--classes", "classes.txt", "--out", "out", "--device", "cpu")


def fill(folder: Path) -> None:
    """Two photos with classes, labels and ground truth."""
    (folder / "photos").mkdir(parents=True)
    (folder / "truth").mkdir()
    for seed, name in enumerate(("a", "b")):
        Image.fromarray(photo((24, 32), seed)).save(folder / f"photos/{name}.jpg")
        truth = np.random.default_rng(seed).integers(0, 3, (24, 32)).astype(np.uint8)
        Image.fromarray(truth).save(folder / f"truth/{name}.png")
    (folder / "classes.txt").write_text("dog\ncat\n")
    (folder / "labels.csv").write_text("image,labels\na,dog\nb,cat;dog\n")


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Command, weights: Path, quick_crf: None) -> Path:
    """The working folder with all that the stages made of two photos."""
    monkeypatch.chdir(tmp_path)
    fill(tmp_path)
    kept = weights.with_name("made of two photos")  # made once a session
    if not kept.is_dir():
        labels = ("--labels", "labels.csv", "--cam_out_dir", "made/cams")
        assert command("generate_cams", *OWN, *labels, "--model", weights, "--device", "cpu").code == 0
        assert command("eval_cam_with_crf", *OWN, *labels, "--pseudo_mask_save_path", "made/masks").code == 0
        shutil.move("made", kept)
    shutil.copytree(kept, tmp_path, dirs_exist_ok=True)
    return tmp_path


def run(command: Command, name: str, weights: Path, *more: str) -> Ended:
    model = ("--model", weights) if name == "scripts.tag_images" else ()
    return command(name, *OWN, "--labels", "labels.csv", *OPTIONS[name], *model, *more)


def text(name: str, content: str) -> Callable[[], object]:
    return lambda: Path(name).write_text(content)


def nothing() -> None:
    pass


# what is prepared, further options, what is said
REFUSED: dict[str, tuple[Callable[[], object], tuple[str, ...], str]] = {
    "wrong root": (nothing, ("--img_root", "photo"), "--img_root photo: no such folder; expected"),
    "empty folder": (lambda: Path("void").mkdir(), ("--img_root", "void"), "--img_root void: no image in it"),
    "a name too long": (nothing, ("--img_root", "x" * 300), "no such folder; expected"),
    "wrong classes file": (nothing, ("--classes", "class.txt"), "--classes class.txt: no such file"),
    "wrong label file": (nothing, ("--labels", "label.csv"), "--labels label.csv: no such file or folder"),
    "a class typo": (text("labels.csv", "image,labels\na,dgo\nb,cat\n"), (), "'dgo' (line 2; did you mean 'dog'?)"),
    "an id that leaves": (text("labels.csv", "image,labels\n../a,dog\n"), (), "line 2: id '../a' leaves the image"),
    "a split that leaves": (text("s.txt", "a\n../b\n"), ("--split_file", "s.txt"), "s.txt, line 2: id '../b' leaves"),
    "wrong split": (nothing, ("--split_file", "s.txt"), "s.txt: no such file; expected a text file"),
    "two of a name": (
        lambda: Image.fromarray(photo((9, 9), 1)).save("photos/a.png"),
        (),
        "photos: 1 id of several images: a (a.jpg, a.png)",
    ),
}


@pytest.mark.parametrize("mistake", REFUSED)
def test_refused_in_one_line(mistake: str, own: Path, command: Command, weights: Path) -> None:
    prepare, more, says = REFUSED[mistake]
    prepare()
    for name in OPTIONS:
        ended = run(command, name, weights, *more)
        assert ended.code == 2 and ended.err.startswith("error: ") and ended.err.count("\n") == 1, name
        assert says in ended.err, name
    assert not [path.name for path in own.iterdir() if path.name.startswith("new")]


@pytest.mark.parametrize(
    ("name", "option"),
    [(name, option) for name, given in OPTIONS.items() for option in ("--cam_out_dir", "--gt_root") if option in given],
)
@pytest.mark.parametrize("strangers", [(), ("c.npz", "c.png")])
def test_a_folder_without_a_file_of_the_list_is_refused(
    name: str, option: str, strangers: tuple[str, ...], own: Path, command: Command, weights: Path
) -> None:
    Path("void").mkdir()
    for stranger in strangers:
        Path("void", stranger).touch()
    ended = run(command, name, weights, option, "void")
    assert ended.code == 2 and ended.err.startswith(f"error: {option} void: none of the files of the 2 images is there")
    assert ended.err.count("\n") == 1 and "; expected " in ended.err
    assert not [path.name for path in own.iterdir() if path.name.startswith("new")]


def cut() -> None:
    Path("photos/b.jpg").write_bytes(Path("photos/b.jpg").read_bytes()[:300])


@pytest.mark.parametrize("harm", [cut, text("photos/b.jpg", ""), text("photos/b.jpg", "<html>")])
def test_a_damaged_photo_fails_alone(harm: Callable[[], object], own: Path, command: Command, weights: Path) -> None:
    harm()
    for name in READERS:
        ended = run(command, name, weights)
        assert ended.code == 3 and ended.err.count("\n") == 2, ended.err
        told = (
            "masks/b.png: made from another photo"
            if name == "scripts.report"
            else "photos/b.jpg: not a readable image ("
        )
        assert ended.err.startswith(f"1 image failed:\n  b: {told}"), name


@pytest.mark.parametrize("name", [name for name in READERS if name != "scripts.tag_images"])
def test_an_id_too_long_for_a_file_fails_alone(name: str, own: Path, command: Command, weights: Path) -> None:
    Path("s.txt").write_text(f"{'x' * 300}\na\n")
    ended = command(name, *OWN, "--split_file", "s.txt", *OPTIONS[name])
    if name == "scripts.preview":  # shows what is there
        assert ended.code == 0 and "1 images in" in ended.out
    else:
        assert ended.code == 3 and ended.err.startswith("1 image failed:\n  xxx") and ended.err.count("\n") == 2


def picture(mode: str) -> None:
    deep = Image.fromarray(np.arange(768, dtype=np.uint16).reshape(24, 32) * 80)
    Path("photos/b.jpg").unlink()
    image = deep if mode == "I;16" else Image.fromarray(photo((24, 32), 7)).convert(mode)
    image.save(f"photos/b.{'jpg' if mode in ('L', 'CMYK') else 'png'}")


@pytest.mark.parametrize("mode", ["L", "CMYK", "I;16"])
def test_pictures_of_any_mode_are_taken(mode: str, own: Path, command: Command, weights: Path) -> None:
    picture(mode)
    made = ("--labels", "labels.csv", "--cam_out_dir", "cams", "--model", weights, "--device", "cpu")
    ended = command("generate_cams", *OWN, *made, "--overwrite")
    assert ended.code == 0, ended.err
    masks = ("--labels", "labels.csv", "--cam_out_dir", "cams", "--pseudo_mask_save_path", "masks", "--overwrite")
    assert command("eval_cam_with_crf", *OWN, *masks).code == 0
    for name in READERS:
        ended = run(command, name, weights)
        assert ended.code == 0 and ended.err == "", name


# --- one photo ------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["L", "CMYK", "I;16"])
def test_one_photo_of_any_mode_is_taken(mode: str, own: Path, command: Command, weights: Path) -> None:
    picture(mode)
    (path,) = Path("photos").glob("b.*")
    ended = command("scripts.segment", path, *SEGMENT, "--model", weights)
    assert ended.code == 0 and Image.open("out/b_mask.png").size == (32, 24)


@pytest.mark.parametrize("harm", [cut, text("photos/b.jpg", ""), Path("photos/b.jpg").unlink])
def test_one_damaged_photo_is_one_line(harm: Callable[[], object], own: Path, command: Command, weights: Path) -> None:
    harm()
    ended = command("scripts.segment", "photos/b.jpg", *SEGMENT, "--model", weights)
    lines = [line for line in ended.err.splitlines() if not line.startswith("warning: ")]
    assert ended.code == 3 and lines[0] == "1 image failed:" and len(lines) == 2 and "photos/b.jpg: " in lines[1]
    assert not list(Path("out").glob("*"))
