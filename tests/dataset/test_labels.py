"""Every label format says the same, and whatever is wrong with a label file is named with its line."""

import json
from pathlib import Path
from unicodedata import normalize

import pytest
from PIL import Image

from cli.lookup import select
from common.errors import UserError
from dataset.ids import image_id
from dataset.labels import read_label_file, read_labels_argument
from dataset.names import hint
from dataset.spec import DatasetSpec, prompts_with
from tests.support import annotation

CLASSES = ("dog", "traffic light", "person")
SPEC = DatasetSpec("mine", CLASSES, prompts_with(CLASSES, {}), ("sky",), True, 0.4)
WANTED = {"a": ("person", "dog"), "sub/b c": ("traffic light",)}

FORMATS: dict[str, tuple[str, str]] = {
    "words": ("labels.txt", '# mine\na person dog\n\n"sub/b c" "traffic light"\n'),
    "words with suffix": ("labels.lst", 'a.jpg person dog\n"sub/b c.PNG" "traffic light"'),
    "colon": ("labels.txt", "a: person, dog\nsub/b c.webp: traffic light\n"),
    "quoted colon": ("labels.txt", 'a: person, dog\n"sub/b c": traffic light\n'),
    "byte order mark, Windows line ends": ("labels.txt", '\ufeffa person dog\r\n"sub/b c" "traffic light"\r\n'),
    "csv": ("labels.csv", "image,labels\na.jpg,person;dog\nsub/b c.jpg,traffic light\n"),
    "csv, other columns, quotes": (
        "labels.csv",
        'labels,by,Image\n"person; dog",me,./a.jpg\ntraffic  light,,sub/b c\n',
    ),
    "csv by its header": ("labels", "image,labels\na,person;dog;person\nsub//b c,traffic light;\n"),
    "json lines": (
        "labels.jsonl",
        '{"image": "a.jpg", "labels": ["person", "dog"]}\n\n{"image": "sub/b c", "labels": ["traffic light"]}\n',
    ),
    "json lines in .json": (
        "labels.json",
        '{"image": "a.jpg", "labels": ["person", "dog"]}\n{"image": "sub/b c", "labels": ["traffic light"]}\n',
    ),
    "coco": (
        "instances.json",
        json.dumps(
            {
                "images": [{"id": 7, "file_name": "a.jpg"}, {"id": 3, "file_name": "sub/b c.jpg"}],
                "annotations": [
                    {"id": 1, "image_id": 7, "category_id": 5},
                    {"id": 2, "image_id": 3, "category_id": 9},
                    {"id": 3, "image_id": 7, "category_id": 2},
                    {"id": 4, "image_id": 7, "category_id": 5},
                ],
                "categories": [
                    {"id": 5, "name": "person"},
                    {"id": 2, "name": "dog"},
                    {"id": 9, "name": "traffic light"},
                ],
            }
        ),
    ),
}


@pytest.mark.parametrize("name", FORMATS)
def test_formats(name: str, tmp_path: Path) -> None:
    file, text = FORMATS[name]
    (tmp_path / file).write_text(text, encoding="utf-8", newline="")
    table = read_label_file(tmp_path / file)
    assert {key: entry.names for key, entry in table.entries.items()} == WANTED
    assert not table.repeated and not table.problems


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_names_are_compared_in_one_unicode_form(form: str, tmp_path: Path) -> None:
    """A folder made on macOS is `cafe` and an accent; a classes file typed elsewhere has one sign for it."""
    typed, other = (normalize(each, "café") for each in (form, "NFD" if form == "NFC" else "NFC"))
    (tmp_path / "classes.txt").write_text(f"{typed}\n", encoding="utf-8")
    (tmp_path / "photos" / other).mkdir(parents=True)
    Image.new("RGB", (4, 4)).save(tmp_path / "photos" / other / "a.png")
    (tmp_path / "labels.csv").write_text(f"image,labels\n{typed}/a,{other}\n", encoding="utf-8")
    (tmp_path / "xml" / other).mkdir(parents=True)
    (tmp_path / "xml" / typed).mkdir(exist_ok=True)
    (tmp_path / "xml" / typed / "a.xml").write_text(annotation([other]), encoding="utf-8")
    for labels in ("folders", other, str(tmp_path / "labels.csv"), str(tmp_path / "xml")):
        selection = select("folder", tmp_path / "photos", None, None, tmp_path / "classes.txt", labels)
        assert [sample.labels for sample in selection.samples()[0]] == [(0,)], labels


def test_voc_annotations(tmp_path: Path) -> None:
    for key, names in WANTED.items():
        path = tmp_path / f"{key}.xml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(annotation([*names, names[0]]))
    (tmp_path / "bad.xml").write_text("<annotation>")
    table = read_labels_argument(str(tmp_path), SPEC, [])
    assert {key: entry.names for key, entry in table.entries.items()} == WANTED
    assert [key for key, _ in table.problems] == ["bad"] and "damaged XML" in table.problems[0][1]


def test_folders_and_the_same_for_all() -> None:
    folders = read_labels_argument("folders", SPEC, ["dog/x", "traffic light/2024/y", "z"])
    assert [entry.names for entry in folders.entries.values()] == [("dog",), ("traffic light",), ()]
    every = read_labels_argument(" person,traffic light", SPEC, ["x", "y.png"])
    assert {key: entry.names for key, entry in every.entries.items()} == dict.fromkeys(
        ("x", "y.png"), ("person", "traffic light")
    )


def test_more_names_than_a_file_name_may_have_letters() -> None:
    classes = tuple(f"class {index}" for index in range(80))
    spec = DatasetSpec("mine", classes, prompts_with(classes, {}), ("sky",), True, 0.4)
    assert read_labels_argument(",".join(classes), spec, ["x"]).entries["x"].names == classes


@pytest.mark.parametrize(
    ("image", "wanted"),
    [("a.jpg", "a"), ("./a/b.JPEG", "a/b"), ("a//b.webp", "a/b"), ("a.b", "a.b"), ("a.jpg.png", "a.jpg")],
)
def test_ids(image: str, wanted: str) -> None:
    assert image_id(image, "here") == wanted


@pytest.mark.parametrize("image", ["../a.jpg", "a/../../b", "/etc/passwd", "", "."])
def test_ids_that_leave_the_folder(image: str) -> None:
    with pytest.raises(UserError, match=r"labels\.csv, line 4: id .* leaves the image folder"):
        image_id(image, "labels.csv, line 4")


def test_backslashes_are_answered_with_what_to_type() -> None:
    with pytest.raises(UserError, match=r"^labels\.csv, line 4: use / instead of \\ in .*, as in 'trip/b\.jpg'$"):
        image_id("trip\\b.jpg", "labels.csv, line 4")


def test_clip_names_the_classes_in_one_command_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "clip").mkdir()
    with pytest.raises(UserError, match=r"--labels clip: only generate_cams\.py .* leave --labels out here, or give"):
        read_labels_argument("clip", SPEC, ["x"])


COCO_PARTS = {"images": [{"id": 1, "file_name": "a"}], "annotations": [], "categories": [{"id": 1, "name": "dog"}]}


def coco(**changed: object) -> str:
    return json.dumps(COCO_PARTS | changed)


# file name, content, what the one line says
DAMAGED: list[tuple[str, str | bytes, str]] = [
    ("l.txt", 'a dog\nb "dog', "l.txt, line 2: a quote is not closed"),
    ("l.txt", "a dog\n../b dog", "l.txt, line 2: id '../b' leaves"),
    ("l.txt", "", "l.txt: no labels in it"),
    ("l.txt", "# nothing\n", "l.txt: no labels in it"),
    ("l.txt", "a dog\nb \xe9".encode("latin-1"), "l.txt, line 2: not UTF-8"),
    ("l.txt", "a dog".encode("utf-16"), "l.txt: UTF-16 text; save it as UTF-8"),
    ("cls_labels.npy", b"\x93NUMPY\x01\x00v\x00{'descr'", "not UTF-8"),
    ("l.bin", b"a\x00b", "l.bin: a binary file"),
    ("l.xml", "<annotation/>", "one XML file; for VOC annotations give the folder"),
    ("l.csv", "name,classes\na,dog\n", "l.csv, line 1: expected the header image,labels"),
    ("l.csv", "image;labels\na;dog\n", "l.csv, line 1: expected the header image,labels (commas"),
    ("l.csv", "image,labels\na,dog,person\n", "l.csv, line 2: 3 columns where the header has 2; join several"),
    ("l.csv", "image,labels\na\n", "l.csv, line 2: 1 columns"),
    ("l.csv", 'image,labels\na,dog\n"b,dog\n', "not CSV"),
    ("l.csv", "image,labels\n../a,dog\n", "l.csv, line 2: id '../a' leaves"),
    ("l.csv", "", "l.csv, line 1: expected the header"),
    ("l.csv", "image,labels,labels\na,dog,person\n", "l.csv, line 1: expected the header image,labels"),
    ("l.jsonl", '{"image": "a", "labels": ["dog"]}\n{"image": ', "l.jsonl, line 2: not JSON"),
    ("l.jsonl", '{"image": "a", "labels": "dog"}', "l.jsonl, line 1: `labels` is not a list of names"),
    ("l.jsonl", '{"image": "a", "labels": [3]}', "l.jsonl, line 1: `labels` is not a list of names"),
    ("l.jsonl", '{"file": "a"}', "l.jsonl, line 1: no `image`"),
    ("l.jsonl", "[" * 100_000, "l.jsonl, line 1: not JSON"),
    ("l.json", '["a"]', "l.json: neither COCO's instances"),
    ("l.json", '{"images": [', "l.json, line 1: not JSON"),
    ("l.json", '{"images": []}', "l.json: no list `annotations`"),
    ("l.json", coco(images=[{"id": "1", "file_name": "a"}]), "l.json: images[0] has no whole number `id`"),
    ("l.json", coco(images=[{"id": 1}]), "l.json: images[0] has no text `file_name`"),
    ("l.json", coco(images=[*COCO_PARTS["images"]] * 2), "l.json: two images or two categories have the same id"),
    ("l.json", coco(annotations=[{"image_id": 1, "category_id": 2}]), "annotations[0] is of category 2, which"),
    ("l.json", coco(annotations=[{"image_id": 5, "category_id": 1}]), "annotations[0] is of image 5, which"),
    ("l.json", coco(annotations=["x"]), "annotations[0] has no whole number `image_id`"),
    ("l.json", coco(images=[{"id": 1, "file_name": "../a"}]), "image id 1: id '../a' leaves"),
]


@pytest.mark.parametrize(("file", "content", "message"), DAMAGED)
def test_damaged_files(file: str, content: str | bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / file
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError) as raised:
        read_labels_argument(str(path), SPEC, [])
    assert message in str(raised.value) and "\n" not in str(raised.value) and file in str(raised.value)


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("dgo", "did you mean 'dog'?"),
        ("Person", "did you mean 'person'?"),
        ("traffic", 'in a line of words it goes in quotes: "traffic light"'),
        ("dog;person", "several names in one?"),
        ("zebra", "expected one of dog, traffic light, person"),
    ],
)
def test_hints(name: str, wanted: str) -> None:
    assert wanted in hint(name, CLASSES)
