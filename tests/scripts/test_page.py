"""What stands behind the page: the masks are those of scripts.segment, mistakes are one line, memory is bounded."""

import socket
import struct
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from common.errors import UserError
from common.provenance import parse_record
from dataset.mask_png import mask_made_by, read_mask
from report.live_page import Asked, line_of
from scripts import page
from scripts.page import PhotoStudio
from tests.support import Command, photo

pytestmark = pytest.mark.slow

MakeStudio = Callable[..., PhotoStudio]


@pytest.fixture
def shot(tmp_path: Path) -> Path:
    path = tmp_path / "shot.png"
    Image.fromarray(photo((33, 47), 3)).save(path)
    return path


@pytest.fixture
def make_studio(weights: Path, tmp_path: Path) -> MakeStudio:
    (tmp_path / "page").mkdir()
    return lambda *options: PhotoStudio(
        page.parse(["--model", str(weights), "--device", "cpu", *map(str, options)]), tmp_path / "page"
    )


def asked(photo: Path, words: str, **more: Any) -> Asked:
    usual = {"method": "clip-es", "has_background": True, "around": "", "cam_type": "attn_highres"}
    return Asked(photo, words, **{**usual, "confidence": 0.6, "options": {}, **more})


# --- the masks ------------------------------------------------------------------------------------

SAME = {  # what is asked of the page, and of scripts.segment
    "as it comes": ({}, []),
    "box threshold": ({"options": {"box_threshold": 0.8}}, ["--box_threshold", 0.8]),
    "before the affinity": ({"cam_type": "highres"}, ["--cam_type", "highres"]),
    "confidence": ({"confidence": 0.9}, ["--confidence", 0.9]),
    "another method": (
        {"method": "sclip", "options": {"prob_threshold": 0.1, "area_threshold": 0.2}},
        ["--method", "sclip", "--prob_threshold", 0.1, "--area_threshold", 0.2],
    ),
}


def test_masks_are_those_of_the_command(
    make_studio: MakeStudio, command: Command, shot: Path, weights: Path, tmp_path: Path
) -> None:
    (tmp_path / "few.txt").write_text("dog\na red cat\n[background]\nsky\n")  # 80 templates for each word
    plain = ("--classes", tmp_path / "few.txt", "--crf_image", "reference")
    studio, found = make_studio(*plain), set()
    for name, (here, there) in SAME.items():
        words = ("--labels", "dog", "a red cat", "--model", weights, "--device", "cpu", "--confidence", 0.6)
        ended = command("scripts.segment", shot, *words, *plain, *there, "--out", tmp_path / name)
        assert ended.code == 0, ended.err
        file, mask = studio.mask(asked(shot, "dog, a red cat", **here)), tmp_path / name / "shot_mask.png"
        assert file.name == "shot_mask.png" and Image.open(file).mode == "P"
        assert np.array_equal(read_mask(file), read_mask(mask)), name
        record = parse_record(mask_made_by(mask))
        assert parse_record(mask_made_by(file)) == {**record, "palette": True}
        found.add(read_mask(mask).tobytes())
    assert len(found) >= 4


def test_classes_of_a_data_set_and_of_a_file(
    make_studio: MakeStudio, command: Command, shot: Path, weights: Path, tmp_path: Path
) -> None:
    """voc20 has no background; the file has its own words for it, which people can change."""
    (tmp_path / "classes.txt").write_text("dog\nred cat\n[background]\nsky\n")
    (tmp_path / "other.txt").write_text("dog\nred cat\n[background]\ngrass\nroad\n")
    plain = ("--model", weights, "--device", "cpu", "--confidence", 0.6)
    for number, (options, words, around, same) in enumerate(
        [
            (("--dataset", "voc20"), "dog, car", "", ("--dataset", "voc20")),
            (("--classes", tmp_path / "classes.txt"), "red cat", "", ("--classes", tmp_path / "classes.txt")),
            (("--classes", tmp_path / "classes.txt"), "red cat", "grass; road", ("--classes", tmp_path / "other.txt")),
        ]
    ):
        studio, out = make_studio(*options), tmp_path / str(number)
        assert (studio.background is None) == (number == 0) and "dog" in studio.classes
        assert command("scripts.segment", shot, "--labels", words, *same, *plain, "--out", out).code == 0
        file = studio.mask(asked(shot, words, around=around))
        assert np.array_equal(read_mask(file), read_mask(out / "shot_mask.png")) and len(np.unique(read_mask(file))) > 1


def test_refinement_of_the_command_line(
    make_studio: MakeStudio, command: Command, shot: Path, weights: Path, tmp_path: Path
) -> None:
    studio = make_studio("--refine", "pamr")
    assert studio.confidence == 0  # scores without CRF are no probabilities
    options = ("--labels", "dog", "cat", "--model", weights, "--device", "cpu", "--refine", "pamr", "--out", tmp_path)
    assert command("scripts.segment", shot, *options).code == 0
    file = studio.mask(asked(shot, "dog, cat", confidence=0.0))
    assert np.array_equal(read_mask(file), read_mask(tmp_path / "shot_mask.png"))


def test_without_background_every_pixel_is_one_of_the_words(make_studio: MakeStudio, shot: Path) -> None:
    studio = make_studio()
    without = studio.stages(asked(shot, "dog, cat", has_background=False, confidence=0.0))
    assert set(np.unique(without.mask)) <= {0, 1} and list(without.names) == without.words == ["dog", "cat"]
    assert 0 in studio.stages(asked(shot, "dog, cat", confidence=0.0)).mask  # the background


def test_stages_go_with_the_mask(make_studio: MakeStudio, shot: Path) -> None:
    studio = make_studio()
    question = asked(shot, "dog, cat", confidence=0.9)
    stages = studio.stages(question)
    assert np.array_equal(stages.rgb, np.asarray(Image.open(shot)))
    assert stages.cam.shape == stages.attn.shape == (2, 33, 47) and not np.array_equal(stages.cam, stages.attn)
    assert stages.cam.min() >= 0 and stages.cam.max() <= 1
    assert np.array_equal(stages.mask, read_mask(studio.mask(question)))
    sure = stages.mask != 255
    assert 0 < sure.mean() < 1 and np.array_equal(stages.mask[sure], stages.labels[sure])
    assert stages.words == ["dog", "cat"] and set(stages.confidence) == set(np.unique(stages.labels).tolist())


def test_people_at_once_get_their_own(make_studio: MakeStudio, tmp_path: Path) -> None:
    studio, questions = make_studio(), []
    for number in range(6):
        path = tmp_path / f"{number % 3}.png"
        Image.fromarray(photo((24, 32), number % 3)).save(path)
        questions.append(asked(path, "dog, cat", options={"box_threshold": 0.2 + 0.5 * (number // 3)}))
    alone = [studio.stages(question).labels for question in questions]
    with ThreadPoolExecutor(6) as pool:
        for expected, found in zip(alone * 3, pool.map(studio.stages, questions * 3)):
            assert np.array_equal(expected, found.labels)


def test_methods_are_those_that_the_model_can_do(
    make_studio: MakeStudio, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Segclip and sam3 load models of their own, proxyclip asks for a network, zsseg
    for packages."""
    (tmp_path / "few.txt").write_text("dog\n[background]\nsky\n")
    studio = make_studio("--method", "sclip", "--classes", tmp_path / "few.txt")
    assert studio.methods[0] == "sclip" and {"clip-es", "maskclip", "sc-clip", "zsseg"} <= set(studio.methods)
    assert not {"segclip", "sam3", "proxyclip"} & set(studio.methods)
    find = page.find_spec
    monkeypatch.setattr(page, "find_spec", lambda name: None if name == "skimage" else find(name))
    assert not studio._fits("zsseg") and studio._fits("maskclip")
    assert set(studio.defaults("sclip")) == {"prob_threshold", "area_threshold"} and not studio.defaults("maskclip")


def test_what_is_kept_is_bounded(make_studio: MakeStudio, shot: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "KEPT_MASKS", 2)
    studio = make_studio()
    files = [studio.mask(asked(shot, "dog", confidence=number / 5)) for number in range(5)]
    assert [file.is_file() for file in files] == [False] * 3 + [True] * 2
    assert sum(path.name == "shot_mask.png" for path in files[0].parents[1].rglob("*.png")) == 2


# --- mistakes -------------------------------------------------------------------------------------


def png_header(width: int, height: int) -> bytes:
    """A PNG of that size without its pixels."""
    parts = (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)), (b"IDAT", b""), (b"IEND", b"")
    framed = (struct.pack(">I", len(data)) + kind + data for kind, data in parts)
    return b"\x89PNG\r\n\x1a\n" + b"".join(part + struct.pack(">I", zlib.crc32(part[4:])) for part in framed)


MISTAKES: dict[str, tuple[dict[str, Any], str]] = {
    "no word": ({"words": " , ;"}, "no words: say what the photo shows, such as aeroplane, bicycle"),
    "a wrong word": ({"words": "dgo"}, "dgo: not a class of voc12; did you mean 'dog'?"),
    "many words": ({"words": ", ".join(f"w{number}" for number in range(50))}, "50 words: at most 20 at once"),
    "a long word": ({"words": "x" * 200}, "a word of 200 letters"),
    "no picture": ({"photo": b"hello, I am a text"}, "photo.jpg: not a readable image"),
    "an empty file": ({"photo": b""}, "photo.jpg: not a readable image"),
    "a huge photo": ({"photo": png_header(20_000, 20_000)}, "photo.jpg: 20000 x 20000 pixels, at most 100 million"),
    "an absurd photo": ({"photo": png_header(60_000, 60_000)}, "photo.jpg: too many pixels to be opened safely"),
    "a cut photo": ({"photo": png_header(40, 40)}, "photo.jpg: not a readable image"),
    "a method": ({"method": "proxyclip"}, "--dino is needed"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line_without_folders(name: str, make_studio: MakeStudio, shot: Path, tmp_path: Path) -> None:
    changed, expected = MISTAKES[name]
    question = asked(shot, "dog", **{key: value for key, value in changed.items() if key == "method"})
    if "photo" in changed:
        (tmp_path / "photo.jpg").write_bytes(changed["photo"])
        question = replace(question, photo=tmp_path / "photo.jpg")
    question = replace(question, words=changed.get("words", "dog"))
    studio = make_studio("--dataset", "voc12")
    for call in (studio.stages, studio.mask):
        with pytest.raises(UserError) as error:
            call(question)
        line = line_of(error.value, question.photo)
        assert expected in line and "\n" not in line and str(tmp_path) not in line and not line.startswith("--labels")
    assert studio.stages(asked(shot, "dog")).words == ["dog"]  # the next one is none the worse


def test_an_unexpected_error_is_one_line_too() -> None:
    assert line_of(RuntimeError("several\nlines of it")) == "RuntimeError: several lines of it"


def test_words_that_the_toy_world_never_saw_are_noted(shot: Path, tmp_path: Path) -> None:
    studio = PhotoStudio(page.parse(["--device", "cpu"]), tmp_path)
    assert studio.classes[:2] == ("house", "car") and len(studio.examples) == page.EXAMPLES
    example, words = studio.examples[0]
    assert not studio.stages(asked(example, words)).notes
    noted = studio.stages(asked(example, words, around="grass, xylophones"))
    assert noted.notes == ["the model never saw these words: xylophones"]


def test_where_the_page_cannot_be(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "find_spec", lambda name: object())
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ended = command("scripts.page", "--port", port)
    assert ended.code == 2 and ended.err.startswith(f"error: --host 127.0.0.1 --port {port}: no page can be there")
    ended = command("scripts.page", "--refine", "crf,sam", "--votes", "felzenszwalb")
    assert ended.code == 2 and "masks that vote take too long for a page" in ended.err
    assert command("scripts.page", "--port", 70_000).code == command("scripts.page", "--host", "no.such.host").code == 2


def test_without_gradio_one_line_says_how_to_get_it(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "find_spec", lambda name: None if name == "gradio" else find_spec(name))
    ended = command("scripts.page")
    assert ended.code == 2 and ended.err.count("\n") == 1 and "pip install -r requirements-page.txt" in ended.err
