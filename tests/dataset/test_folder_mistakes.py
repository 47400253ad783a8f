"""Every mistake a newcomer makes on the way to masks of their own photos: one clear line, no traceback."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from tests.support import Command, photo

CLASSES = "dog\ncat\ntraffic light\n"
LABELS = "image,labels\na.jpg,dog\nb.jpg,cat;dog\n"


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two photos with classes and labels that fit, in the working folder."""
    monkeypatch.chdir(tmp_path)
    Path("photos").mkdir()
    for seed, name in enumerate(("a", "b")):
        Image.fromarray(photo((24, 32), seed)).save(f"photos/{name}.jpg")
    Path("classes.txt").write_text(CLASSES)
    Path("labels.csv").write_text(LABELS)
    return tmp_path


def options(**changed: str | None) -> list[str]:
    given = {"img_root": "photos", "classes": "classes.txt", "labels": "labels.csv"} | changed
    return [part for name, value in given.items() if value is not None for part in (f"--{name}", value)]


def write(name: str, content: str | bytes) -> Callable[[], object]:
    return lambda: Path(name).write_bytes(content.encode() if isinstance(content, str) else content)


def nothing() -> None:
    pass


def link_out() -> None:
    Image.fromarray(photo((24, 32), 3)).save("elsewhere.jpg")
    Path("photos/c.jpg").symlink_to("../elsewhere.jpg")


def voc_without_xml() -> None:
    Path("VOC/JPEGImages").mkdir(parents=True)
    Path("VOC/Annotations").mkdir()
    Path("VOC/JPEGImages/a.jpg").write_bytes(Path("photos/a.jpg").read_bytes())
    Path("split.txt").write_text("a\n")


VOC = ["--dataset", "voc12", "--img_root", "VOC", "--split_file", "split.txt"]
FOLDER = ["--dataset", "folder"]

# what is prepared, the arguments, the exit code, what is said
MISTAKES: dict[str, tuple[Callable[[], object], list[str], int, str]] = {
    "no images given": (nothing, options(img_root=None), 2, "--img_root is needed with --dataset folder"),
    "no classes given": (nothing, options(classes=None), 2, "--classes is needed with --dataset folder"),
    "no labels given": (nothing, options(labels=None), 2, "--labels is needed with --dataset folder"),
    "wrong root": (nothing, options(img_root="photo"), 2, "--img_root photo: no such folder; expected"),
    "a photo as root": (nothing, options(img_root="photos/a.jpg"), 2, "--img_root photos/a.jpg: no such folder"),
    "empty folder": (lambda: Path("new").mkdir(), options(img_root="new"), 2, "--img_root new: no image in it"),
    "wrong classes file": (nothing, options(classes="class.txt"), 2, "--classes class.txt: no such file"),
    "wrong label file": (nothing, options(labels="label.csv"), 2, "--labels label.csv: no such file or folder"),
    "a class typo": (
        write("labels.csv", "image,labels\na,dog\nb,catt\n"),
        options(),
        2,
        "labels.csv: 1 unknown class: 'catt' (line 3; did you mean 'cat'?)",
    ),
    "a typo in the list": (nothing, options(labels="dog,catt"), 2, "'catt' is not a class; did you mean 'cat'?"),
    "a list without commas": (nothing, options(labels="dog cat"), 2, "'dog cat' is not a class; several names in one?"),
    "a name with a space": (
        write("labels.txt", "a traffic light\nb dog\n"),
        options(labels="labels.txt"),
        2,
        'in a line of words it goes in quotes: "traffic light"',
    ),
    "an image name with a space": (
        write("labels.txt", "my a.jpg dog\n"),
        options(labels="labels.txt"),
        2,
        "'a.jpg' (line 1; image names with spaces go in quotes)",
    ),
    "an index too high": (write("l.txt", "a 3\nb 0\n"), options(labels="l.txt"), 2, "class indices run from 0 to 2"),
    "two images of a name": (
        lambda: Image.fromarray(photo((9, 9), 1)).save("photos/a.png"),
        options(),
        2,
        "photos: 1 id of several images: a (a.jpg, a.png)",
    ),
    "a folder without XML": (
        nothing,
        options(labels="photos"),
        2,
        "--labels photos: no XML, JSON, YOLO or other label file",
    ),
    "labels of other images": (
        write("labels.csv", "image,labels\nphotos/c.jpg,dog\n"),
        options(),
        2,
        "labels are for ids such as 'photos/c.jpg', images have ids such as 'a'",
    ),
    "folders that are no classes": (
        lambda: (Path("photos/dogs").mkdir(), Path("photos/a.jpg").rename("photos/dogs/a.jpg")),
        options(labels="folders"),
        2,
        "'dogs' (folder dogs; did you mean 'dog'?)",
    ),
    "classes of another data set": (
        voc_without_xml,
        [*VOC, "--classes", "classes.txt"],
        2,
        "--classes goes with --dataset folder",
    ),
    "coco without a split": (nothing, ["--dataset", "coco14", "--img_root", "photos"], 2, "--split_file is needed"),
    "an image without labels": (
        write("labels.csv", "image,labels\na,dog\n"),
        options(),
        3,
        "warning: 1 image without labels in labels.csv, left out: b",
    ),
    "labels without image": (
        write("labels.csv", LABELS + "c,dog\n"),
        options(),
        3,
        "warning: 1 label without image in photos, left out: c (line 4)",
    ),
    "a link out of the folder": (link_out, options(), 3, "c: photos/c.jpg: a link that leads out of photos"),
    "another kind of picture": (write("photos/c.heic", "x"), options(), 3, "c.heic: photos/c.heic: save it as .jpg"),
    "not an image": (write("photos/b.jpg", "x"), options(), 3, "b: photos/b.jpg: not a readable image"),
    "a missing XML": (voc_without_xml, VOC, 3, "a: VOC/Annotations/a.xml: no such annotation"),
    "a damaged XML": (
        lambda: (Path("xml").mkdir(), Path("xml/a.xml").write_text("<a"), Path("xml/b.xml").write_text("<a/>")),
        options(labels="xml"),
        2,
        "photos: no image can be used; the first, a: xml/a.xml: damaged XML",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes(mistake: str, own: Path, command: Command, weights: Path) -> None:
    prepare, argv, code, message = MISTAKES[mistake]
    prepare()
    dataset = [] if "--dataset" in argv else FOLDER
    ended = command("generate_cams", *dataset, *argv, "--model", weights, "--cam_out_dir", "cams", "--device", "cpu")
    assert ended.code == code, ended.err
    assert len([line for line in ended.err.splitlines() if message in line]) == 1, ended.err
    assert "Traceback" not in ended.err
    if code == 2:
        assert len([line for line in ended.err.splitlines() if not line.startswith("warning: ")]) == 1, ended.err
        assert not Path("cams").exists()


def test_the_next_command_can_be_copied(own: Path, command: Command, weights: Path) -> None:
    Path("photos").rename("my photos")
    argv = [*FOLDER, *options(img_root="my photos"), "--cam_out_dir", "cams"]
    ended = command("generate_cams", *argv, "--model", weights, "--device", "cpu")
    assert "python eval_cam_with_crf.py --dataset folder --img_root 'my photos' --classes classes.txt" in ended.out
    assert "--labels labels.csv --cam_out_dir cams" in ended.out
    assert "words   3 classes, background ground, land, grass" in ended.out


def test_masks_mirror_the_folders(own: Path, command: Command, weights: Path) -> None:
    Path("photos/x/y").mkdir(parents=True)
    Path("photos/a.jpg").rename("photos/x/y/a b.jpg")
    Path("labels.jsonl").write_text(
        "".join(json.dumps({"image": key, "labels": ["dog"]}) + "\n" for key in ("x/y/a b.jpg", "b"))
    )
    argv = [*FOLDER, *options(labels="labels.jsonl"), "--cam_out_dir", "cams"]
    assert command("generate_cams", *argv, "--model", weights, "--device", "cpu").code == 0
    ended = command("eval_cam_with_crf", *argv, "--pseudo_mask_save_path", "masks")
    assert ended.code == 0, ended.err
    assert sorted(str(path) for path in Path("masks").rglob("*.png")) == ["masks/b.png", "masks/x/y/a b.png"]
    scored = ["--cam_type", "png", "--cam_out_dir", "masks", "--gt_root", "masks"]
    ended = command("eval_cam", *FOLDER, *options(labels=None), *scored)
    assert ended.code == 0 and "2 images" in ended.out


def test_maps_of_another_folder_are_not_taken_for_done(own: Path, command: Command, weights: Path) -> None:
    argv = ["--cam_out_dir", "cams", "--model", weights, "--device", "cpu"]
    assert command("generate_cams", *FOLDER, *options(), *argv).code == 0
    Path("others").mkdir()
    for name in "ab":
        Image.fromarray(photo((24, 32), 9)).save(f"others/{name}.jpg")
    ended = command("generate_cams", *FOLDER, *options(img_root="others"), *argv)
    assert ended.code == 2 and "made with other settings: images" in ended.err


def test_masks_are_no_images_for_the_crf(own: Path, command: Command) -> None:
    Path("split.txt").write_text("a\n")
    argv = [*FOLDER, *options(img_root=None, labels=None), "--split_file", "split.txt", "--gt_root", "photos"]
    ended = command("eval_cam_with_crf", *argv, "--cam_out_dir", "photos")
    assert ended.code == 2 and "--img_root is needed" in ended.err
