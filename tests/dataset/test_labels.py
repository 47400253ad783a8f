"""Every label format says the same, and whatever is wrong with a label file is named with its line."""

import json
from pathlib import Path
from unicodedata import normalize

import pytest
from PIL import Image

from cli.lookup import select
from common.errors import UserError
from dataset.folder import Images
from dataset.ids import reference
from dataset.labels import read_labels_argument
from dataset.matching import match
from dataset.names import hint
from dataset.references import find_references
from dataset.spec import DatasetSpec, Sample, prompts_with
from pipeline.stages.tags import write_labels
from tests.label_files import CLASSES, FORMATS, NOTHING, PART, PHOTOS, WANTED, write_form
from tests.support import annotation

SPEC = DatasetSpec("mine", CLASSES, prompts_with(CLASSES, {}), ("sky",), True, 0.4)


@pytest.mark.parametrize("name", FORMATS)
def test_formats(name: str, tmp_path: Path) -> None:
    source = write_form(tmp_path, {file: text.encode() for file, text in FORMATS[name].items()})
    images = Images({key: tmp_path / file for key, file in PHOTOS.items()})
    table = read_labels_argument(str(source), SPEC, [])
    result = match(SPEC, tmp_path, images, table)
    result.print_lines()
    found = {sample.id: {CLASSES[label] for label in sample.labels} for sample in result.samples}
    wanted = {key: names for key, names in WANTED.items() if name not in PART or key == "a"}
    assert found == {**wanted, **({"n": set()} if name in NOTHING else {})}, table
    assert {key for key, _ in result.problems} == PHOTOS.keys() - found.keys()


IMAGES = {
    "photo": "photo.jpg",
    "photo.jpg": "photo.jpg.png",
    "train/x": "train/x.JPG",
    "val/x": "val/x.jpg",
    " y ": " y .png",
}


@pytest.mark.parametrize(
    ("references", "wanted"),
    [
        (["photo.jpg", "photo.jpg.png"], ["photo", "photo.jpg"]),  # names of files
        (["photo", "photo.jpg"], ["photo", "photo.jpg"]),  # ids
        (["photo.jpg"], ["photo"]),
        (["Train/X.jpg", "data/val/x.jpg"], ["train/x", "val/x"]),
        (["x.jpg"], [None]),  # fits two
        ([" y ", "y.png"], [" y ", None]),
        (["y.png"], [None]),
        (["a/train/x.jpg", "b/train/x.jpg"], [None, None]),  # both fit one
        (["a/train/x.jpg", "b/test/x.jpg"], ["train/x", None]),
        (["train/x.bmp", "c/train/x.jpg"], ["train/x", None]),  # a path comes before a file name
    ],
)  # fmt: skip
def test_references(references: list[str], wanted: list[str | None]) -> None:
    found = find_references({key: Path(file) for key, file in IMAGES.items()}, references)
    assert [found.ids.get(text) for text in references] == wanted


@pytest.mark.parametrize(
    ("references", "wanted"),
    [
        (["photo.jpg"], ["photo.jpg"]),
        (["photo", "photo.jpg"], ["photo", "photo.jpg"]),
        (["photo.jpg", "photo.jpg.png"], ["photo", "photo.jpg"]),  # names of files after all
    ],
)
def test_references_in_lists_of_ids(references: list[str], wanted: list[str]) -> None:
    found = find_references({key: Path(file) for key, file in IMAGES.items()}, references, are_ids=True)
    assert [found.ids[text] for text in references] == wanted


def test_ids_that_are_written_are_read_back(tmp_path: Path) -> None:
    """Names that look like others, with spaces at either end, of signs that label files use."""
    names = ["photo.jpg", "photo.jpg.png", " a .png", "b.PNG.tif", "#c.jpg", "d: e.jpg", "{f}.jpg", "g/h, i;j.webp",
        "0.jpg",
             "k|l.jpg", "[m].jpg", "<n>.jpg"]  # fmt: skip
    images = Images({name.rpartition(".")[0]: Path(name) for name in names})
    samples = [Sample(key, path, (number % 3,)) for number, (key, path) in enumerate(images.paths.items())]
    write_labels(tmp_path / "tags.txt", samples)
    result = match(SPEC, tmp_path, images, read_labels_argument(str(tmp_path / "tags.txt"), SPEC, []))
    assert result.samples == samples and not result.problems and not result.errors and not result.warnings


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


def test_a_damaged_annotation_costs_its_image(tmp_path: Path) -> None:
    (tmp_path / "a.xml").write_text(annotation(["dog"]))
    (tmp_path / "bad.xml").write_text("<annotation>")
    table = read_labels_argument(str(tmp_path), SPEC, [])
    assert list(table.entries) == ["a"]
    assert [key for key, _ in table.problems] == ["bad"] and "damaged XML" in table.problems[0][1]


@pytest.mark.parametrize(
    ("ids", "wanted"),
    [
        (["dog/x", "traffic light/2024/y", "z"], ["dog", "traffic light", None]),
        (["train/dog/x", "val/Traffic_Light/y", "test/z"], ["dog", "Traffic_Light", None]),
        (["train/dog/x", "dog/y"], ["train", "dog"]),  # no splits above the classes
    ],
)
def test_folders(ids: list[str], wanted: list[str | None]) -> None:
    entries = read_labels_argument("folders", SPEC, ids).entries
    assert [entries[key].names[0] if key in entries else None for key in ids] == wanted


@pytest.mark.parametrize(
    ("ids", "wanted"),
    [
        (["train/a", "person/b"], ["train", "person"]),
        (["train/2024/a"], ["train"]),
        (["train/train/a", "train/person/a"], ["train", "person"]),
    ],
)
def test_a_class_may_be_called_train(ids: list[str], wanted: list[str]) -> None:
    """As VOC's is: by the other folders it is known what is meant."""
    spec = DatasetSpec("mine", ("train", "person"), (("train",), ("person",)), ("sky",), True, 0.4)
    assert [entry.names[0] for entry in read_labels_argument("folders", spec, ids).entries.values()] == wanted


def test_the_same_for_all() -> None:
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
    [("a.jpg", "a.jpg"), ("./a/b.JPEG", "a/b.JPEG"), ("a//b", "a/b"), (r"C:\\x\\a.jpg", "x/a.jpg"), (" a ", " a "),
     ("/photos/a.jpg", "photos/a.jpg"), ("s3://bucket/x/a%20b.jpg", "x/a b.jpg"),
     ("/data/local-files/?d=x/a.jpg", "x/a.jpg")],
)  # fmt: skip
def test_how_files_name_images(image: str, wanted: str) -> None:
    assert reference(image, "here") == wanted


@pytest.mark.parametrize("image", ["../a", "a/../../b", "a/..", "", ".", "/", "..", "  ", "C:\\"])
def test_names_that_lead_nowhere(image: str) -> None:
    with pytest.raises(UserError, match=r"labels\.csv, line 4: (id .* leaves the image folder|no image is named)"):
        reference(image, "labels.csv, line 4")


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
    ("l.txt", "a dog\nb/../../c dog", "l.txt, line 2: id 'b/../../c' leaves"),
    ("l.txt", "a dog\nb: ;", "l.txt, line 2: only separators where labels are expected"),
    ("l.txt", "", "l.txt: no labels in it"),
    ("l.txt", "# nothing\n", "l.txt: no labels in it"),
    ("l.txt", "a\nb\n", "l.txt: no labels in it"),
    ("l.txt", "a dog\nb \xe9".encode("latin-1"), "l.txt, line 2: not UTF-8"),
    ("l.txt", "a dog".encode("utf-16"), "l.txt: UTF-16 text; save it as UTF-8"),
    ("cls_labels.npy", b"\x93NUMPY\x01\x00v\x00{'descr'", "not UTF-8"),
    ("l.bin", b"a\x00b", "l.bin: a binary file"),
    ("l.xml", "<annotation/>", "one XML file; for VOC annotations give the folder"),
    ("l.xml", "<annotations><track/></annotations>", "l.xml: no images but tracks of a video; export it as"),
    ("l.csv", "name,width\na,3\n", "l.csv, line 1: no column for the image; expected a header such as image,labels"),
    ("l.csv", "image,width\na,640\n", "l.csv, line 1: no column of labels"),
    ("l.csv", "image,labels\na,dog,person\n", "l.csv, line 2: 3 columns where the header has 2; join several"),
    ("l.csv", "image,labels\na\n", "l.csv, line 2: 1 column where"),
    ("l.csv", 'image,labels\na,dog\n"b,dog\n', "not CSV"),
    ("l.csv", "image,labels\na,dog\nb,;;\n", "l.csv, line 3: only separators where labels are expected"),
    ("l.csv", "image,labels\na,dog\n,person\n", "l.csv, line 3: labels without an image"),
    ("l.csv", "image,labels\na,\"['dog', '']\"\n", "l.csv, line 2: an empty name among the labels"),
    ("l.csv", "image,labels,more_labels\na,dog,person\n", "l.csv, "
        "line 1: the field 'more_labels' looks like labels; call"),
    ("l.csv", "image,labels,dog\na,person,1\n", "l.csv, line 1: the field 'dog' is called as a class, "
        "and stands beside"),
    ("l.jsonl", '{"image": "a", "labels": ["dog"], "person": 1}', "l.jsonl, line 1: the field 'person' is called as"),
    ("l.json", coco(images=[{"id": 1, "file_name": "a", "labels": ["dog"]}]),
        "images[0] has a field 'labels', which looks"),
    ("l.csv", "image,image,labels\na,b,dog\n", "l.csv, line 1: 2 fields 'image'; keep one"),
    ("l.csv", "image,dog,person\na,1,2\n", "l.csv, line 2: column 'person' holds '2', not 0 or 1"),
    ("l.csv", "image,dog,person\na,1,0\nb,-1,1\n", "l.csv, line 3: holds -1 or an empty cell beside 0 and 1"),
    ("l.csv", "image,dog,person\na,1,0\nb,,1\n", "l.csv, line 3: holds -1 or an empty cell beside 0 and 1"),
    ("l.csv", "a.jpg,dog\nb.jpg,person\n", "l.csv, line 1: names an image, and no columns; expected a header"),
    ("l.csv", "ImageID,LabelName\na,/m/01\n", "l.csv: classes are codes such as /m/01g317; put class-descriptions.csv"),
    ("l.csv", "", "l.csv, line 1: no column for the image"),
    ("l.jsonl", '{"image": "a", "labels": ["dog"]}\n{"image": ', "l.jsonl, line 2: not JSON"),
    ("l.jsonl", '{"image": "a", "labels": [[{}]]}', "l.jsonl, line 1: an object without a name among the labels"),
    ("l.jsonl", '{"image": "a", "labels": [0.5]}', "l.jsonl, line 1: 0.5 is no name and no index of a class"),
    ("l.jsonl", '{"image": "a", "labels": null}', "l.jsonl, line 1: `labels` is not a list of names; write []"),
    ("l.jsonl", '{"image": "a", "labels": ["dog"], "labels": ["person"]}', "l.jsonl, line 1: 'labels' stands twice"),
    ("l.jsonl", '{"image": "a", "labels": ["dog"], "extra_tags": ["x"]}',
        "l.jsonl, line 1: the field 'extra_tags' looks like"),
    ("l.jsonl", '{"file": "a"}', "l.jsonl, line 1: no `labels`"),
    ("l.jsonl", '{"labels": ["dog"]}', "l.jsonl, line 1: no `image`"),
    ("l.jsonl", "[" * 100_000, "l.jsonl, line 1: not JSON"),
    ("l.json", '{"x": 3}', "l.json: JSON of no known form"),
    ("l.json", '["a"]', "l.json: JSON of no known form"),
    ("l.json", '{"images": [', "l.json, line 1: not JSON"),
    ("l.json", '{"images": [], "categories": []}', "l.json: no list `annotations`"),
    ("l.json", '{"images": [],\n"categories": [],\n"images": []}', "l.json, line 3: 'images' stands twice"),
    ("l.json", coco(images=[{"id": "x", "file_name": "a"}]), "l.json: images[0] has no whole number `id`"),
    ("l.json", coco(categories=[{"id": 1, "name": " "}]), "l.json: categories[0] has no text `name`"),
    ("l.json", coco(images=[{"id": 1}]), "l.json: images[0] has no text `file_name`"),
    ("l.json", coco(images=[*COCO_PARTS["images"]] * 2), "l.json: two images or two categories have the same id"),
    ("l.json", coco(annotations=[{"image_id": 1, "category_id": 2}]), "annotations[0] is of category 2, which"),
    ("l.json", coco(annotations=[{"image_id": 5, "category_id": 1}]), "annotations[0] is of image 5, which"),
    ("l.json", coco(annotations=["x"]), "annotations[0] has no whole number `image_id`"),
    ("l.json", coco(images=[{"id": 1, "file_name": "b/../../a"}]), "image id 1: id 'b/../../a' leaves"),
    ("l.json", '{"classes": ["dog"], "labels": {"a": [3]}}', "l.json, image 'a': label '3', and `classes` has 1 names"),
    ("l.json", '[{"data": {"image": "a.jpg"}, "annotations": [{"result": [{"type": "rectanglelabels", '
        '"value": {}}]}]}]',
     "l.json, task 1: a region without label"),
    ("y.yaml", "names: {0: dog", "y.yaml, line 1: not YAML"),
    ("y.yaml", "path: x", "y.yaml: no `names`"),
]  # fmt: skip


def test_nameless_objects_cost_their_images(tmp_path: Path) -> None:
    """In forms with a file or an element an image."""
    (tmp_path / "x.xml").write_text('<annotations><image name="a.jpg"><box/><box label="dog"/></image></annotations>')
    (tmp_path / "v").mkdir()
    (tmp_path / "v/a.xml").write_text("<annotation><object><name> </name></object></annotation>")
    (tmp_path / "v/b.xml").write_text("<annotation><objects><object><name>dog</name></object></objects></annotation>")
    (tmp_path / "j").mkdir()
    (tmp_path / "j/a.json").write_text('{"shapes": [{"label": ""}, {"label": "dog"}], "imagePath": "a.jpg"}')
    for source, reasons in (
        ("x.xml", ["image 1 has a box without label"]),
        ("v", ["object 1 has no name", "<objects> looks like labels"]),
        ("j", ["shape 1 has no label"]),
    ):
        table = read_labels_argument(str(tmp_path / source), SPEC, [])
        assert not table.entries and len(table.problems) == len(reasons)
        assert all(reason in problem for reason, (_, problem) in zip(reasons, table.problems)), table.problems


def test_damaged_yolo_files_cost_their_images(tmp_path: Path) -> None:
    (tmp_path / "data.yaml").write_text("names: [dog]")
    for name, text in (("a", "0 0.5 0.5 0.1 0.1\n1 0 0 0 0"), ("b", "0 0.5"), ("c", "")):
        (tmp_path / f"{name}.txt").write_text(text)
    table = read_labels_argument(str(tmp_path), SPEC, [])
    assert dict(table.problems).keys() == {"a", "b"} and "a.txt, line 2: class 1" in table.problems[0][1]


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
