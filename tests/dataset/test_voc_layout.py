"""A data set in VOC layout: paths, splits, labels, and everything that can be wrong with them."""

from pathlib import Path

import pytest

from common.errors import UserError
from dataset.readers.voc_xml import read_names
from dataset.split_file import read_split
from dataset.voc_layout import find_image, read_labels, voc_paths, voc_samples
from tests.support import annotation

CLASSES = ("cat", "dog", "horse", "tvmonitor")


@pytest.mark.parametrize("given", ["", "JPEGImages"])
def test_the_other_folders_lie_beside_the_images(world: Path, given: str) -> None:
    paths = voc_paths(world / given)
    assert paths.images == world / "JPEGImages" and paths.annotations == world / "Annotations"
    assert paths.masks == world / "SegmentationClass"
    assert paths.split == world / "ImageSets/Segmentation/train.txt"


def test_what_is_given_wins(world: Path, tmp_path: Path) -> None:
    paths = voc_paths(world, tmp_path / "s.txt", tmp_path / "gt")
    assert paths.split == tmp_path / "s.txt" and paths.masks == tmp_path / "gt"


def test_without_masks_there_is_no_ground_truth(tmp_path: Path) -> None:
    assert voc_paths(tmp_path).masks is None


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("a\nb\n", ["a", "b"]),
        ("a 1\n\n  b -1\nc", ["a", "b", "c"]),  # ImageSets/Main lines hold a label too; blank lines are none
        ("a\r\nb\r\n", ["a", "b"]),
        ("b\na\nb\n", ["b", "a"]),
        ("sub/a\n", ["sub/a"]),
        ("a\rb\r", ["a", "b"]),  # as old Macs end lines
        ("# those of May\na\n./a\nsub//a\n", ["a", "sub/a"]),
    ],
)
def test_split(tmp_path: Path, text: str, ids: list[str]) -> None:
    (tmp_path / "s.txt").write_bytes(text.encode())
    assert read_split(tmp_path / "s.txt") == ids


@pytest.mark.parametrize(
    ("content", "complaint"),
    [(None, "no such file"), (b"", "empty split"), (b" \n\n", "empty split"), (b"\xff\xfe\x00", "UTF-16 text"),
     (b"a\n../b\n", "line 2: id '../b' leaves"), (b"/etc/passwd\n", "leaves"), (b"a\0b\n", "a binary file"),
     (b"a\nb\n\xe9\n", "line 3: not UTF-8 text"), (b"a\nb\x1b[2J\n", r"line 2: id 'b\\x1b\[2J' holds control")],
)  # fmt: skip
def test_a_bad_split_is_named(tmp_path: Path, content: bytes | None, complaint: str) -> None:
    if content is not None:
        (tmp_path / "s.txt").write_bytes(content)
    with pytest.raises(UserError, match=rf"s\.txt[:,] .*{complaint}"):
        read_split(tmp_path / "s.txt")


@pytest.mark.parametrize(
    ("xml", "labels"),
    [
        (annotation(["dog", "cat"]), (1, 0)),  # in file order
        (annotation(["dog", "cat", "dog", "dog"]), (1, 0)),  # each once
        (annotation([]), ()),
        ("<annotation><object><name> cat\n</name></object></annotation>", (0,)),
        ("<?xml version='1.0' encoding='iso-8859-1'?>" + annotation(["horse"]), (2,)),
        ("<annotation><object><name>cat</name><part><name>head</name></part></object></annotation>", (0,)),
        ("<annotation><source><name>x</name></source><object><name>cat</name></object></annotation>", (0,)),
    ],
)
def test_labels(tmp_path: Path, xml: str, labels: tuple[int, ...]) -> None:
    (tmp_path / "a.xml").write_text(xml)
    assert read_labels(tmp_path / "a.xml", CLASSES) == labels


@pytest.mark.parametrize(
    ("xml", "complaint"),
    [
        (None, "no such annotation"),
        ("", "damaged XML"),
        ("no xml", "damaged XML"),
        ("<annotation><object>", "damaged XML"),
        ("<annotation>&undefined;</annotation>", "damaged XML"),
        (annotation(["hrose"]), "unknown class 'hrose'; did you mean 'horse'"),
        (annotation(["tv monitor"]), "did you mean 'tvmonitor'"),
        (annotation(["Cat"]), "did you mean 'cat'"),
        (annotation(["zebra crossing"]), "unknown class 'zebra crossing'; expected one of cat, dog"),
        (annotation([""]), "object 1 has no name"),
        ("<annotation><object><name>cat</name></object><object/></annotation>", "object 2 has no name"),
        ("<!DOCTYPE annotation>" + annotation(["cat"]), "declares a DOCTYPE"),
        ('<!DOCTYPE annotation SYSTEM "http://localhost:9/x.dtd">' + annotation(["cat"]), "declares a DOCTYPE"),
    ],
)
def test_bad_annotations_are_named(tmp_path: Path, xml: str | None, complaint: str) -> None:
    if xml is not None:
        (tmp_path / "a.xml").write_text(xml)
    with pytest.raises(UserError, match=rf"a\.xml: .*({complaint})") as caught:
        read_labels(tmp_path / "a.xml", CLASSES)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["a.jpg", "a.jpeg", "a.png", "a.JPG", "a.PNG", "a.JPEG"])
def test_images_are_found_by_any_usual_suffix(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"")
    assert find_image(tmp_path, "a") == tmp_path / name


def test_a_missing_image_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"a\.jpg: no such image; expected it in --img_root, as \.jpg"):
        find_image(tmp_path, "a")


def test_samples_and_failures_are_told_apart(world: Path) -> None:
    (world / "Annotations" / "b.xml").unlink()
    (world / "JPEGImages" / "d.jpg").unlink()
    (world / "Annotations" / "e.xml").write_text(annotation(["tabel"]))
    samples, failures = voc_samples(voc_paths(world), ("aeroplane", "table"), ["a", "b", "c", "e"])
    assert [(sample.id, sample.labels) for sample in samples] == [("a", (0,)), ("c", ())]
    assert samples[0].image == world / "JPEGImages" / "a.jpg"
    assert [image_id for image_id, _ in failures] == ["b", "e"] and "did you mean 'table'" in failures[1][1]


def test_no_annotations_at_all_is_a_mistake_in_the_call(world: Path) -> None:
    for path in (world / "Annotations").iterdir():
        path.unlink()
    (world / "Annotations").rmdir()
    with pytest.raises(UserError, match=r"Annotations beside --img_root, .*: no such folder"):
        voc_samples(voc_paths(world), CLASSES, ["a"])


@pytest.mark.parametrize("length", [300, 5000])
def test_an_absurdly_long_id_fails_alone(world: Path, length: int) -> None:
    """As when a JSON file is given for a split: the system refuses such file names in its own way."""
    (world / "split.txt").write_text(f"a\n{'x' * length}\n")
    samples, failures = voc_samples(voc_paths(world), ("aeroplane",), read_split(world / "split.txt"))
    assert [sample.id for sample in samples] == ["a"] and len(failures) == 1


@pytest.mark.parametrize("root", ['annotation xmlns="http://x.org/voc"', 'annotation xmlns:z="urn:z"'])
def test_namespaces_hide_no_object(root: str, tmp_path: Path) -> None:
    prefix = "z:" if "xmlns:z" in root else ""
    other = f"<{prefix}object><{prefix}name>car</{prefix}name></{prefix}object>"
    (tmp_path / "a.xml").write_text(f"<{root}><object><name>dog</name></object>{other}</annotation>")
    assert read_names(tmp_path / "a.xml") == ("dog", "car")
