"""A user's folder: which images it holds, what its classes file says, and how images and labels come together."""

import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cli.lookup import select
from common.errors import UserError
from common.images import read_image
from dataset.classes_file import read_classes
from dataset.folder import find_images
from dataset.mask_png import write_mask
from tests.support import photo
from voc12.spec import BACKGROUND


def put(root: Path, *names: str) -> Path:
    """Small images at these paths."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(photo((20, 30), 1)).save(path, {".webp": "WEBP", ".png": "PNG"}.get(path.suffix, "JPEG"))
    return root


# --- images ---------------------------------------------------------------------------------------


def test_any_depth_in_the_order_of_the_ids(tmp_path: Path) -> None:
    put(tmp_path, "b.JPG", "a/z.jpeg", "a/b/c.webp", "a.png", ".hidden/x.jpg", "a/._z.jpg")
    (tmp_path / "notes.txt").touch()
    images = find_images(tmp_path)
    assert list(images.paths) == ["a", "a/b/c", "a/z", "b"]
    assert images.paths["b"] == tmp_path / "b.JPG"
    assert not images.twice and not images.problems


@pytest.mark.parametrize("suffix", [".bmp", ".tif", ".TIFF", ".jfif"])
def test_other_suffixes(suffix: str, tmp_path: Path) -> None:
    Image.fromarray(photo((20, 30), 1)).save(tmp_path / f"a{suffix}", "JPEG" if suffix == ".jfif" else None)
    path = find_images(tmp_path).paths["a"]
    assert read_image(path).size == (30, 20)


def test_thumbnails_and_files_of_systems_are_left_out_and_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    left_out = ["cup/@eaDir/a.jpg/SYNOPHOTO_THUMB_M.jpg", "__MACOSX/cup/a.jpg", "cup/.thumbnails/normal/a.png",
                "cup/._a.jpg", "#recycle/b.jpg"]  # fmt: skip
    put(tmp_path, "cup/a.jpg", *left_out)
    for name in ("cup/Thumbs.db", ".DS_Store"):
        (tmp_path / name).touch()
    assert list(find_images(tmp_path).paths) == ["cup/a"]
    told = capsys.readouterr().err
    assert told == f"left out: 7 hidden or system files, in {tmp_path}, such as '#recycle/b.jpg'\n"


def test_files_of_one_id(tmp_path: Path) -> None:
    assert find_images(put(tmp_path, "a.jpg", "a.png", "a/a.jpg")).twice == {"a": ["a.jpg", "a.png"]}


def test_pictures_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    put(tmp_path, "a.jpg")
    for name in ("b.gif", "c/d.HEIC"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert [key for key, _ in find_images(tmp_path).problems] == ["b.gif", "c/d.HEIC"]


def test_links(tmp_path: Path) -> None:
    outside = put(tmp_path / "outside", "x.jpg")
    root = put(tmp_path / "photos", "a.jpg")
    (root / "inside.jpg").symlink_to("a.jpg")
    (root / "out.jpg").symlink_to(outside / "x.jpg")
    (root / "folder").symlink_to(outside)
    (root / "loop").symlink_to(root)
    images = find_images(root)
    assert list(images.paths) == ["a", "inside"]
    assert sorted(key for key, _ in images.problems) == ["folder", "loop", "out"]
    assert "leads out of" in dict(images.problems)["out"]


def test_a_root_that_is_a_link(tmp_path: Path) -> None:
    put(tmp_path / "real", "a.jpg")
    (tmp_path / "link").symlink_to("real")
    assert list(find_images(tmp_path / "link").paths) == ["a"]


def test_what_this_project_wrote_is_no_photo(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    put(tmp_path, "a.jpg", "b.png", "trip/output/c.png", "output/folder/overlays/a.png", "output/.x.png")
    (tmp_path / "output/folder/tags.txt").touch()
    write_mask(tmp_path / "masks/a.png", np.zeros((20, 30), np.uint8), palette=True, made_by='{"crf": 1}')
    (tmp_path / "cut.png").write_bytes((tmp_path / "b.png").read_bytes()[:20])
    monkeypatch.chdir(tmp_path)
    for root, wanted in ((Path(), ["a", "b", "cut", "trip/output/c"]), (Path("output"), ["folder/overlays/a"])):
        assert list(find_images(root).paths) == wanted
    told = "left out: 2 pictures that this project wrote, in ., such as 'masks/a.png'\n"
    assert capsys.readouterr().err.startswith(told)
    monkeypatch.chdir(tmp_path / "trip")  # another working folder has another output
    assert list(find_images(tmp_path).paths) == ["a", "b", "cut", "output/folder/overlays/a"]
    assert "left out: 2 pictures" in capsys.readouterr().err


# --- classes --------------------------------------------------------------------------------------


def classes(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "classes.txt"
    path.write_text(text, encoding="utf-8")
    return path


def test_classes_file(tmp_path: Path) -> None:
    text = """
        # what is on my photos
        dog  # any breed
        traffic  light: traffic light; stop-light, red
        [background]
        grass
        cloudy  sky
    """
    spec = read_classes(classes(tmp_path, "\ufeff" + text))
    assert spec.classes == ("dog", "traffic light")
    assert spec.prompts == (("dog",), ("traffic light", "stop-light, red"))
    assert spec.background_prompts == ("grass", "cloudy sky")
    assert spec.has_background and spec.box_threshold == 0.4


def test_default_background_is_vocs_without_the_classes(tmp_path: Path) -> None:
    spec = read_classes(classes(tmp_path, "Tree\nferry: boat; water"))
    assert spec.background_prompts == tuple(word for word in BACKGROUND if word not in ("tree", "water"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no classes in it"),
        ("[background]\ngrass", "no classes in it"),
        ("dog\ncat\nDog", "line 3: class 'Dog' is there already"),
        ("dog:", "line 1: an empty prompt"),
        ("dog: a; ;b", "line 1: an empty prompt"),
        (": a", "line 1: an empty name"),
        ("dog\n1: house", "line 2: class name '1' is a number, which label files take for the index of a class; give"),
        ("dog\n07", "give it a name, e.g. class 07"),
        ("dog, cat", "line 1: class name 'dog, cat' holds a comma"),
        ("dog\nbackground", "line 2: `background` is mask value 0"),
        ("dog\n[foreground]", "line 2: '[foreground]' is not expected here; the only section is [background]"),
        ("dog\n[background]\na\n[background]", "line 4: '[background]' is not expected here"),
        ("dog\n[background]\n", "[background] is empty"),
        ("\n".join(f"c{index}" for index in range(255)), "255 classes; masks hold at most 254"),
    ],
)
def test_damaged_classes_files(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as raised:
        read_classes(classes(tmp_path, text))
    assert message in str(raised.value) and "classes.txt" in str(raised.value) and "\n" not in str(raised.value)


# --- images and labels ----------------------------------------------------------------------------


@pytest.fixture
def own(tmp_path: Path) -> Path:
    put(tmp_path / "photos", "a.jpg", "b.png", "sub/c.webp")
    classes(tmp_path, "dog\ncat\nperson\n")
    return tmp_path


def chosen(own: Path, labels: str | None, split: str | None = None):  # type: ignore[no-untyped-def]
    if split is not None:
        (own / "split.txt").write_text(split)
    split_file = None if split is None else own / "split.txt"
    return select("folder", own / "photos", split_file, None, own / "classes.txt", labels)


def written(own: Path, text: str) -> str:
    (own / "labels.txt").write_text(text)
    return str(own / "labels.txt")


def test_samples_in_the_order_of_the_ids_with_labels_in_that_of_the_file(own: Path) -> None:
    selection = chosen(own, written(own, "sub/c person dog person\nb 1\na 2 cat\n"))
    samples, problems = selection.samples()
    assert [(sample.id, sample.labels) for sample in samples] == [("a", (2, 1)), ("b", (1,)), ("sub/c", (2, 0))]
    assert samples[2].image == own / "photos/sub/c.webp"
    assert problems == [] and selection.ids == ["a", "b", "sub/c"]


def test_what_does_not_fit_is_told_left_out_and_failed(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    selection = chosen(own, written(own, "a dog\nx cat\ny cat\n"))
    told = capsys.readouterr().err.splitlines()
    assert told == [
        f"warning: 2 images without labels in {own}/labels.txt, left out: b, sub/c",
        f"warning: 2 labels without images in {own}/photos, left out: x (line 2), y (line 3)",
    ]
    assert selection.ids == ["a"]
    assert [key for key, _ in selection.problems] == ["b", "sub/c", "x", "y"]


def test_a_split_restricts(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put(own / "photos", "b.jpg")  # a second b, of no interest here
    selection = chosen(own, written(own, "a dog\nx cat\nsub/c cat\n"), "sub/c.webp\na\na\n")
    assert selection.ids == ["sub/c", "a"] and selection.problems == [] and capsys.readouterr().err == ""
    selection = chosen(own, written(own, "a dog\nx cat\n"), "a\nx\n")
    assert "1 id of the split without image" in capsys.readouterr().err
    assert [key for key, _ in selection.problems] == ["x"]


COMPOSED, APART = (unicodedata.normalize(form, "grün") for form in ("NFC", "NFD"))


@pytest.mark.parametrize(("disk", "typed"), [(APART, COMPOSED), (COMPOSED, APART)])
def test_letters_put_together_otherwise_are_the_same_id(disk: str, typed: str, own: Path) -> None:
    put(own / "photos", f"{disk}.jpg")
    for split in (None, f"{typed}\na\n"):
        selection = chosen(own, written(own, f"{typed} dog\na cat\nb cat\nsub/c cat\n"), split)
        assert disk in selection.ids and typed not in selection.ids and not selection.problems
        assert selection.samples()[0][selection.ids.index(disk)].image == own / "photos" / f"{disk}.jpg"
    assert chosen(own, None, typed).ids == [disk]
    with pytest.raises(UserError, match=r"1 duplicate id: .* \(line 1, line 2\)"):
        chosen(own, written(own, f"{typed} dog\n{disk} cat\n"))


def test_two_images_whose_ids_look_the_same(own: Path) -> None:
    put(own / "photos", f"{APART}.jpg", f"{COMPOSED}.jpg")
    if len(list((own / "photos").glob("gr*"))) == 1:
        pytest.skip("this file system takes both names for one")
    for labels in (None, written(own, f"a cat\n{COMPOSED} dog\n")):
        with pytest.raises(UserError, match=r"1 id of several images: .* \('gru\\u0308n.jpg', 'gr\\xfcn.jpg'\)"):
            chosen(own, labels)


def test_without_labels_all_images_are_scored(own: Path) -> None:
    assert chosen(own, None).ids == ["a", "b", "sub/c"]
    assert chosen(own, None, "b\n").ids == ["b"]


def test_all_mistakes_of_a_file_are_told_at_once(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match=r"1 duplicate id: a \(line 1, line 3\)"):
        chosen(own, written(own, "a dgo\nb pesron dgo zebra tiger\na cat\nz dog"))
    warnings, errors = [], []
    for line in capsys.readouterr().err.splitlines():
        (warnings if line.startswith("warning: ") else errors).append(line)
    assert len(warnings) == 2 and len(errors) == 1
    assert "4 unknown classes, used 5 times: 'dgo' (line 1; did you mean 'dog'?), 'pesron'" in errors[0]
    assert errors[0].endswith("and 1 more")


def test_labels_of_other_data_sets_can_be_given(world: Path, tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("image,labels\na.jpg,dog\nb.jpg,cat;dog\nd,person\ne,sofa\nc,sofa")
    selection = select("voc12", world, None, None, None, str(tmp_path / "labels.csv"))
    assert [sample.labels for sample in selection.samples()[0]] == [(11,), (7, 11), (17,), (14,), (17,)]


def test_coco_reads_its_split_and_knows_the_official_names(tmp_path: Path) -> None:
    put(tmp_path / "train2014", "x.jpg", "y.jpg")
    (tmp_path / "train.txt").write_text("x 45 49 50\ny 0\n")
    selection = select("coco14", tmp_path / "train2014", tmp_path / "train.txt", None)
    assert [sample.labels for sample in selection.samples()[0]] == [(45, 49, 50), (0,)]
    (tmp_path / "own.csv").write_text("image,labels\nx,tv;aeroplane;potted plant\ny,airplane")
    selection = select("coco14", tmp_path / "train2014", None, None, None, str(tmp_path / "own.csv"))
    assert [sample.labels for sample in selection.samples()[0]] == [(62, 4, 58), (4,)]
