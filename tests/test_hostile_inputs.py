"""Files that mean harm, given to the real commands: each ends in one plain line, and nothing else has happened.

Nothing is run, read or asked for that the file names, nothing is waited for, and nothing is written outside the output
folder. Images and CAM files have tests of their own; single readers are fuzzed in tests/fuzz.
"""

import json
import os
import pickle
import socket
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image

from coco14.spec import CLASSES as COCO
from common.errors import UserError
from dataset.mask_png import mask_made_by, read_mask, write_mask
from tests.fuzz.support import listing, patience
from tests.support import Command, Ended, annotation, openai_state, photo, tiny_model

ESCAPE = "\x1b]0;owned\x07\x1b[2J"
Prepare = Callable[[], object]


@pytest.fixture(autouse=True)
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder with two photos, their labels, and beside it what must stay as it is."""

    def no_network(*_: object) -> None:
        raise AssertionError("asked for the network")

    work = tmp_path / "work"
    (work / "photos").mkdir(parents=True)
    monkeypatch.chdir(work)
    monkeypatch.setattr(socket.socket, "connect", no_network)
    monkeypatch.setattr(socket, "getaddrinfo", no_network)
    for seed, name in enumerate("ab"):
        Image.fromarray(photo((16, 24), seed)).save(f"photos/{name}.jpg")
    Path("classes.txt").write_text("dog\ncat\n")
    Path("labels.csv").write_text("image,labels\na,dog\nb,cat\n")
    (tmp_path / "secret.txt").write_text("dog")
    return work


def run(command: Command, name: str, *argv: object) -> Ended:
    """Run a command; nothing but `out` may have changed, whatever it says."""
    before = listing(Path(".."))
    with patience():
        ended = command(name, *argv)
    after = listing(Path(".."))
    changed = {path for path in {*before, *after} if before.get(path) != after.get(path)}
    assert not {path for path in changed if not path.startswith("../work/out") and path != "../work"}
    assert all(line.isprintable() for line in (ended.err + ended.out).split("\n")), ascii(ended.err)
    assert "Traceback" not in ended.err and all(len(line) < 600 for line in ended.err.split("\n"))
    return ended


def refused(ended: Ended, says: str) -> None:
    lines = [line for line in ended.err.splitlines() if not line.startswith("warning: ")]
    assert ended.code == 2 and len(lines) == 1, ended.err
    assert lines[0].startswith("error: ") and says in lines[0], lines[0]
    assert not [path for path in Path("out").rglob("*") if path.suffix in (".npz", ".png", ".txt")]


def write(name: str, content: str | bytes) -> Prepare:
    return lambda: Path(name).write_bytes(content if isinstance(content, bytes) else content.encode())


def pipe(name: str) -> Prepare:
    return lambda: os.mkfifo(name)


def link(name: str, target: str) -> Prepare:
    return lambda: Path(name).symlink_to(target)


def folder(name: str) -> Prepare:
    return lambda: Path(name).mkdir()


def sparse(name: str, size: int) -> Prepare:
    """A file of zeros that takes no room."""
    return lambda: (Path(name).touch(), os.truncate(name, size))


# --- files that are not files -------------------------------------------------------------------------

OWN = ("--dataset", "folder", "--img_root", "photos")
COMMANDS: dict[str, tuple[str, ...]] = {
    "generate_cams": ("--cam_out_dir", "out", "--model", "none.pt"),
    "eval_cam": ("--cam_out_dir", "cams", "--gt_root", "photos"),
    "eval_cam_with_crf": ("--cam_out_dir", "cams", "--pseudo_mask_save_path", "out"),
    "scripts.run": ("--pseudo_mask_save_path", "out", "--model", "none.pt"),
    "scripts.tag_images": ("--out", "out/tags.txt", "--model", "none.pt"),
    "scripts.report": ("--cam_out_dir", "cams", "--masks", "masks", "--out", "out.html"),
    "scripts.preview": ("--cam_out_dir", "cams", "--out", "out.png"),
}
NO_FILES: dict[str, Prepare] = {
    "a pipe": pipe("x"),
    "endless zeros": link("x", "/dev/zero"),
    "a terminal": link("x", "/dev/tty"),
    "a folder": folder("x"),
    "a link to itself": link("x", "x"),
    "a link to nothing": link("x", "nowhere"),
    "a huge file": sparse("x", 1 << 40),
}


@pytest.mark.parametrize("kind", NO_FILES)
def test_only_regular_files_of_a_sensible_size_are_read(kind: str, command: Command) -> None:
    NO_FILES[kind]()
    for option in ("--split_file", "--classes", "--labels"):
        refused(run(command, "generate_cams", *OWN, *lists(**{option: "x"}), *COMMANDS["generate_cams"]), "x")
    refused(run(command, "scripts.prepare_coco14", "--annotations", "x", "--split_out", "out"), "x")
    for suffix in ("pt", "safetensors"):
        weights = f"w.{suffix}"
        Path("x").rename(weights) if kind != "a link to itself" else link(weights, weights)()
        refused(
            run(command, "generate_cams", *OWN, *lists(), "--cam_out_dir", "out", "--model", weights), f"{weights}: "
        )
        Path(weights).rename("x")


@pytest.mark.parametrize("name", COMMANDS)
def test_no_command_waits_for_a_pipe(name: str, command: Command) -> None:
    pipe("x")()
    for option in ("--split_file", "--classes", "--labels"):
        refused(run(command, name, *OWN, *lists(**{option: "x"}), *COMMANDS[name]), "x")


def lists(**changed: str) -> list[str]:
    """The options for the files of classes and labels."""
    return [
        part for pair in ({"--classes": "classes.txt", "--labels": "labels.csv"} | changed).items() for part in pair
    ]


# --- text ---------------------------------------------------------------------------------------------

LONG = "a" * 300
MANY_CLASSES = "\n".join(f"c{n}" for n in range(100_000))
MANY_NAMES = "a " + " ".join(f"n{n}" for n in range(90_000))
# which file, its content, what is said of it
TEXT: dict[str, tuple[str, str | bytes, str]] = {
    "split: out by another way": ("s.txt", "a\nx/../../secret\n", "s.txt, line 2: id 'x/../../secret' leaves"),
    "split: of Windows": ("s.txt", "..\\secret\n", "s.txt, line 1: id '../secret' leaves the image"),
    "split: escapes in C1": ("s.txt", "a\n\x9b2J\n", "s.txt, line 2: id '\\x9b2J' holds control"),
    "split: a picture": ("s.txt", b"\x89PNG\r\n\x1a\n\0\0", "s.txt, line 1: not UTF-8 text"),
    "classes: escape sequences": ("classes.txt", f"dog\n{ESCAPE}\n", "classes.txt, line 2: class name"),
    "classes: a long name": ("classes.txt", "dog\n" + "a" * 5000, "classes.txt, line 2: class name 'aaa"),
    "classes: too many": ("classes.txt", MANY_CLASSES, "line 255: 255 classes; masks hold"),
    "text: escape sequences": ("l.txt", f"a dog\nb {ESCAPE}\n", "2 unknown classes: '\\x1b"),
    "text: unknown names without end": ("l.txt", MANY_NAMES, "90000 unknown classes"),
    "text: one id without end": ("l.txt", "a dog\n" * 50_000, "id: a (line 1, line 2, line 3 and 49997 more)"),
    "text: a name that is long": ("l.txt", f"a {LONG}\n", "l.txt: 1 unknown class: 'aaaa"),
    "csv: NUL": ("l.csv", "image,labels\na\0,dog\n", "l.csv: a binary file"),
    "csv: a long field": ("l.csv", f"image,labels\na,{'x' * 200_000}\n", "l.csv, line 2: not CSV (field larger than"),
    "csv: an id of two lines": ("l.csv", 'image,labels\n"a\nb",dog\n', "l.csv, line 3: id 'a\\nb' holds control"),
    "json lines: escape sequences": ("l.jsonl", r'{"image": "\u001b[2J", "labels": ["dog"]}', "'\\x1b[2J' holds"),
    "json lines: half a character": ("l.jsonl", r'{"image": "\ud800", "labels": ["dog"]}', "id '\\ud800' holds"),
    "json lines: NUL": ("l.jsonl", r'{"image": "a\u0000", "labels": ["dog"]}', "l.jsonl, line 1: id 'a\\x00' leaves"),
    "json lines: an escaped name": ("l.jsonl", r'{"image": "a", "labels": ["\u001b[2J"]}', "unknown class: '\\x1b[2J'"),
    "json: deep": ("l.json", '{"images": ' + "[" * 100_000, "l.json: not JSON that can be read"),
    "json: deep and whole": ("l.json", '{"image": ' + "[" * 100_000 + "]" * 100_000 + "}", "l.json, line 1: not JSON"),
    "json: a number without end": ("l.json", '{"images": [' + "9" * 900_000 + "]}", "l.json"),
}  # fmt: skip


@pytest.mark.parametrize("name", TEXT)
def test_hostile_text_is_refused(name: str, command: Command) -> None:
    file, content, says = TEXT[name]
    write(file, content)()
    changed = {"--split_file": file} if file == "s.txt" else {"--labels": file} if file.startswith("l.") else {}
    refused(run(command, "generate_cams", *OWN, *lists(**changed), *COMMANDS["generate_cams"]), says)


def test_what_only_looks_odd_is_taken(command: Command, weights: Path) -> None:
    """A byte order mark, the line ends of Windows and of old Macs, names in any writing."""
    Path("photos/b.jpg").rename("photos/мой ü 写真.jpg")
    Path("classes.txt").write_bytes("\ufeffdog\r\ncat\r\n".encode())
    Path("l.txt").write_bytes('\ufeffa dog\r"мой ü 写真" cat\r'.encode())
    Path("s.txt").write_bytes("\ufeffмой ü 写真.jpg\r\n./a\r\n".encode())
    argv = ("--classes", "classes.txt", "--labels", "l.txt", "--split_file", "s.txt")
    ended = run(command, "generate_cams", *OWN, *argv, "--cam_out_dir", "out", "--model", weights, "--device", "cpu")
    assert ended.code == 0, ended.err
    assert {path.name for path in Path("out").glob("*.npz")} == {"a.npz", "мой ü 写真.npz"}


# --- annotations --------------------------------------------------------------------------------------

BOMB = "".join(f'<!ENTITY e{n + 1} "{f"&e{n};" * 10}">' for n in range(9))
NAMED = "<annotation><object><name>{}</name></object></annotation>"
XML: dict[str, tuple[Prepare, str]] = {
    "a bomb": (write("b.xml", f'<!DOCTYPE a [<!ENTITY e0 "cat">{BOMB}]>' + NAMED.format("&e9;")), "XML"),
    "another file": (
        write("b.xml", '<!DOCTYPE a [<!ENTITY x SYSTEM "../../secret.txt">]>' + NAMED.format("&x;")),
        "refused, it declares a DOCTYPE",
    ),
    "the network": (
        write("b.xml", '<!DOCTYPE a SYSTEM "http://example.org/voc.dtd">' + NAMED.format("cat")),
        "refused, it declares a DOCTYPE",
    ),
    "deep": (write("b.xml", "<a>" * 100_000), "damaged XML"),
    "a huge attribute": (write("b.xml", f'<annotation x="{"a" * 12_000_000}"/>'), "damaged XML"),
    "a huge file": (sparse("b.xml", 1 << 40), "larger than 16 MiB"),
    "escape sequences": (write("b.xml", NAMED.format(ESCAPE)), "damaged XML"),
    "escapes in C1": (write("b.xml", NAMED.format("&#155;2J")), "unknown class '\\x9b2J'"),
    "a long name": (write("b.xml", NAMED.format("cat" * 9000)), "unknown class 'cat"),
    "names without number": (
        write("b.xml", annotation([f"n{n}" for n in range(90_000)])),
        "unknown class 'n0'",
    ),
    "a pipe": (pipe("b.xml"), "no such annotation"),
    "endless zeros": (link("b.xml", "/dev/zero"), "no such annotation"),
    "a folder": (folder("b.xml"), "no such annotation"),
    "a link to itself": (link("b.xml", "b.xml"), "no such annotation"),
    "no text": (write("b.xml", bytes(range(256)) * 99), "damaged XML"),
}


def test_each_hostile_annotation_fails_alone(desk: Path, command: Command, weights: Path) -> None:
    for part in ("Annotations", "ImageSets/Segmentation"):
        Path("VOC", part).mkdir(parents=True)
    Path("photos").rename("VOC/JPEGImages")
    Path("VOC/Annotations/a.xml").write_text(annotation(["dog"]))
    os.chdir("VOC/Annotations")
    for number, (prepare, _) in enumerate(XML.values()):
        prepare()
        Path("b.xml").rename(f"{number}.xml")
        Path(f"../JPEGImages/{number}.jpg").write_bytes(Path("../JPEGImages/b.jpg").read_bytes())
    os.chdir(desk)
    Path("VOC/ImageSets/Segmentation/train.txt").write_text("\n".join(["a", *map(str, range(len(XML)))]))
    argv = ("--dataset", "voc12", "--img_root", "VOC", "--model", weights, "--device", "cpu", "--cam_out_dir", "out")
    ended = run(command, "generate_cams", *argv)
    first, *lines = ended.err.splitlines()
    assert ended.code == 3 and first == f"{len(XML)} images failed:" and len(lines) == len(XML), ended.err
    for number, (line, (_, says)) in enumerate(zip(lines, XML.values())):
        assert line.startswith(f"  {number}: VOC/Annotations/{number}.xml: ") and says in line, line
    assert [path.name for path in Path("out").glob("*.npz")] == ["a.npz"]


def test_names_of_files_are_shown_as_they_are_spelled(command: Command, weights: Path) -> None:
    """Among images, annotations and masks, whose names are not read from a file but may come from an archive."""
    for name in (f"x{ESCAPE}.jpg", "x\nforged: line.jpg", "x\u2028y.jpg"):
        Path("photos", name).write_bytes(Path("photos/a.jpg").read_bytes())
    Path("xml").mkdir()
    for name in ("a", "b", f"x{ESCAPE}", "x\nforged: line"):
        Path("xml", f"{name}.xml").write_text(annotation(["dog"]))
    model = ("--model", weights, "--device", "cpu")
    ended = run(command, "generate_cams", *OWN, *lists(**{"--labels": "xml"}), "--cam_out_dir", "out", *model)
    assert ended.code == 3 and "5 images failed:" in ended.err and ended.err.count("control characters; rename it") == 5
    assert sorted(path.stem for path in Path("out").glob("*.npz")) == ["a", "b"]


def test_images_that_are_links_in_a_circle(command: Command, weights: Path) -> None:
    link("photos/c.jpg", "c.jpg")()
    link("photos/d.jpg", "e.jpg")()
    link("photos/e.jpg", "d.jpg")()
    link("photos/sub", ".")()
    model = ("--model", weights, "--device", "cpu")
    ended = run(command, "generate_cams", *OWN, *lists(), *model, "--cam_out_dir", "out")
    assert ended.code == 3 and sorted(path.stem for path in Path("out").glob("*.npz")) == ["a", "b"]


# --- COCO and SBD -------------------------------------------------------------------------------------


def instances(*segmentations: Any) -> dict[str, Any]:
    """An image with a square, and one with each of these segmentations."""
    drawn = ([[1, 1, 6, 1, 6, 6, 1, 6]], *segmentations)
    images = [{"id": n, "file_name": f"i{n}.jpg", "height": 8, "width": 9} for n in range(len(drawn))]
    items = [{"id": n, "image_id": n, "category_id": 1, "segmentation": each} for n, each in enumerate(drawn)]
    categories = [{"id": n + 1, "name": name} for n, name in enumerate(COCO)]
    return {"images": images, "annotations": items, "categories": categories}


SEGMENTATIONS: dict[str, Any] = {
    "NaN": [[float("nan"), 1, 2, 3, 4, 5]],
    "infinite": [[float("inf"), 1, 2, 3, 4, 5]],
    "far outside": [[1e30, 1, 2, 3, 4, 5]],
    "a huge number": [[10**400, 1, 2, 3, 4, 5]],
    "texts": [["1", "2", "3", "4", "5", "6"]],
    "runs below zero": {"size": [8, 9], "counts": [-1, 73]},
    "runs that wrap around": {"size": [8, 9], "counts": [2**32, 72]},
    "runs of a huge image": {"size": [1 << 30, 1 << 30], "counts": [1 << 60]},
    "compressed, of another size": {"size": [8, 9], "counts": "PPYo1" * 999},
    "compressed, damaged": {"size": [8, 9], "counts": "\u001b[2J"},
    "nothing": None,
    "a lie": True,
}


def test_each_hostile_segmentation_fails_alone(command: Command) -> None:
    Path("x.json").write_text(json.dumps(instances(*SEGMENTATIONS.values())))
    ended = run(command, "scripts.prepare_coco14", "--annotations", "x.json", "--masks_out", "out")
    first, *lines = ended.err.splitlines()
    assert ended.code == 3 and first == f"{len(SEGMENTATIONS)} images failed:", ended.err
    for number, line in enumerate(lines, 1):
        assert line.startswith(f"  i{number}: x.json, image id {number}, annotation {number}: "), line
    assert [path.name for path in Path("out").iterdir()] == ["i0.png"]


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"images": [{"id": 0, "file_name": "../secret.txt"}]}, "id '../secret.txt' leaves"),
        ({"images": [{"id": 0, "file_name": "a\0.jpg"}]}, "id 'a\\x00.jpg' leaves"),
        ({"images": [{"id": 0, "file_name": "a\nb.jpg"}]}, "id 'a\\nb.jpg' holds control characters"),
        ({"images": [{"id": 0, "file_name": f"{ESCAPE}.jpg"}]}, "holds control characters"),
        ({"images": [{"id": 10**4000, "file_name": "a.jpg"}]}, "images[0] has no whole number `id`"),
        ({"images": [{"id": 1e999, "file_name": "a.jpg"}]}, "images[0] has no whole number `id`"),
        ({"images": [{"id": float("nan"), "file_name": "a.jpg"}]}, "images[0] has no whole number `id`"),
        ({"annotations": [{"image_id": 1e999, "category_id": 1}]}, "annotations[0] has no whole number `image_id`"),
        ({"categories": [{"id": n, "name": ESCAPE} for n in range(80)]}, "category 0 is '\\x1b]0;owned\\x07\\x1b[2J'"),
        ({"images": {"id": 0}}, "no list `images`"),
    ],
)  # fmt: skip
def test_hostile_instances_are_refused(changed: dict[str, Any], says: str, command: Command) -> None:
    Path("x.json").write_text(json.dumps(instances() | {"annotations": []} | changed))
    refused(run(command, "scripts.prepare_coco14", "--annotations", "x.json", "--masks_out", "out"), says)


def test_names_that_would_forge_a_line_of_a_split(command: Command) -> None:
    for part in ("SegmentationClass", "SegmentationClassAug", "ImageSets/Segmentation"):
        Path("VOC", part).mkdir(parents=True)
    Path("VOC/ImageSets/Segmentation/val.txt").write_text("a\n")
    Image.fromarray(np.zeros((4, 5), np.uint8)).save("VOC/SegmentationClassAug/x\n..png")
    refused(
        run(command, "scripts.prepare_voc12", "--root", "VOC"), "name 'x\\n.' holds spaces, which split files cannot"
    )


# --- weights ------------------------------------------------------------------------------------------


class Bomb:
    """Pickles to a call that leaves a marker."""

    def __reduce__(self) -> tuple[Any, tuple]:
        return os.system, ("touch ../executed",)


def clip_state() -> dict[str, torch.Tensor]:
    """A whole CLIP, but for the words it knows: small enough to be written again and again."""
    state = openai_state(tiny_model(layers=1, text_layers=1))
    return {**state, "token_embedding.weight": state["token_embedding.weight"][:9].clone()}


def text_tower(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {key: value for key, value in state.items() if not key.startswith("visual.")}


def leaving_archive() -> None:
    """A zip file with the marks of a TorchScript archive, and records that leave it."""
    records = {"x/data.pkl": b"N.", "x/constants.pkl": b"", "x/code/a.py": b"import os"}
    with zipfile.ZipFile("w.pt", "w") as archive:
        for name, content in {**records, "../../escaped": b"written", "/tmp/escaped": b"written"}.items():
            archive.writestr(name, content)


def save(change: Callable[[dict[str, torch.Tensor]], object]) -> Prepare:
    return lambda: torch.save(change(clip_state()), "w.pt")


def lying_header() -> None:
    safetensors.torch.save_file(clip_state(), "w.pt")
    data = Path("w.pt").read_bytes()
    Path("w.safetensors").write_bytes(b"\xff\xff\xff\xff\xff\xff\xff\x7f" + data[8:])
    Path("w.pt").unlink()


WEIGHTS: dict[str, tuple[Prepare, str]] = {
    "a torch file that runs a command": (lambda: torch.save({"x": Bomb()}, "w.pt"), "would run code"),
    "the same under state_dict": (lambda: torch.save({"state_dict": {"x": Bomb()}}, "w.pt"), "would run code"),
    "paths that leave the archive": (leaving_archive, "without a module"),
    "a header that lies": (lying_header, "w.safetensors: cannot be read as weights"),
    "a ResNet": (save(lambda state: {**state, "visual.layer1.0.conv1.weight": torch.zeros(2)}), "is a ResNet"),
    "a text tower": (save(text_tower), "not the weights of a CLIP"),
    "SigLIP": (save(lambda _: {"visual.trunk.pos_embed": torch.zeros(2)}), "not the weights of a CLIP"),
    "of transformers": (
        save(lambda _: {"vision_model.embeddings.class_embedding": torch.zeros(2)}),
        "not the weights of a CLIP",
    ),
    "names with escape sequences": (save(lambda _: {ESCAPE: torch.zeros(2)}), "found ?]0;owned"),
    "a weight too many": (save(lambda state: {**state, f"visual.{ESCAPE}": torch.zeros(2)}), "visual.?]0;"),
    "not a number": (
        save(lambda state: {**state, "logit_scale": torch.tensor(float("nan"))}),
        "logit_scale has values that are not finite",
    ),
    "a huge scale": (save(lambda state: {**state, "logit_scale": torch.tensor(1e4)}), "logit_scale 1e+04 is no CLIP's"),
    "without memory": (
        save(lambda state: {**state, "visual.proj": torch.empty(64, 32, device="meta")}),
        "is no array of real numbers (torch.float32, meta",
    ),
}


@pytest.mark.parametrize("kind", WEIGHTS)
def test_hostile_weights_are_refused(kind: str, desk: Path, command: Command) -> None:
    prepare, says = WEIGHTS[kind]
    prepare()
    (path,) = desk.glob("w.*")
    model = ("--cam_out_dir", "out", "--device", "cpu", "--model", path.name)
    refused(run(command, "generate_cams", *OWN, *lists(), *model), says)
    assert not Path("../executed").exists()


def test_the_bomb_would_work() -> None:
    """Otherwise the tests above would prove nothing."""
    pickle.loads(pickle.dumps(Bomb()))  # noqa: S301
    assert Path("../executed").exists()


# --- masks ------------------------------------------------------------------------------------------

MASK = np.arange(12, dtype=np.uint8).reshape(3, 4)


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP"])
def test_no_mask_is_written_over_a_picture_of_others(form: str) -> None:
    """Somebody may take the folder of photos, or of the ground truth, for that of the masks."""
    Image.fromarray(photo((16, 24), 3)).save("photos/c.png", form)
    whole = Path("photos/c.png").read_bytes()
    with pytest.raises(UserError, match=r"photos/c\.png: not written, a picture lies there that this project did not"):
        write_mask(Path("photos/c.png"), MASK)
    assert Path("photos/c.png").read_bytes() == whole


def test_a_mask_is_written_over_masks_and_what_is_no_picture() -> None:
    write_mask(Path("out/a.png"), MASK + 1, made_by="x")
    write_mask(Path("out/b.png"), MASK + 1)
    cut = Path("out/b.png").read_bytes()[:40]
    Path("out/c.png").write_bytes(cut)
    Path("out/d.png").write_text("text")
    Path("out/e.png").symlink_to(Path("photos/a.jpg").resolve())
    whole = Path("photos/a.jpg").read_bytes()
    for name in "abcde":
        write_mask(Path(f"out/{name}.png"), MASK)
        assert np.array_equal(read_mask(Path(f"out/{name}.png")), MASK)
    assert Path("photos/a.jpg").read_bytes() == whole


def test_a_mask_followed_by_gigabytes_of_nothing_is_not_taken_into_memory() -> None:
    write_mask(Path("out/a.png"), MASK, made_by="x")
    os.truncate("out/a.png", 3 << 30)
    tracemalloc.start()
    assert mask_made_by(Path("out/a.png")) == "x"
    assert tracemalloc.get_traced_memory()[1] < 10 << 20
    tracemalloc.stop()
