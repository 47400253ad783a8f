"""What `--mask_values` says, on small masks that are counted by hand."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from cli.datasets import spec_of
from cli.lookup import PALETTES_OF
from common.errors import UserError
from dataset.mask_png import read_mask
from dataset.mask_values import parse_mask_values
from dataset.spec import DatasetSpec, prompts_with

CLASSES = ("cup", "traffic light")
SPEC = DatasetSpec("mine", CLASSES, prompts_with(CLASSES, {}), ("sky",), True, 0.4)
NAMES = {palette: spec_of(name).classes for palette, name in PALETTES_OF.items()}
GREY = np.array([[0, 128, 255]], np.uint8)
RGB = np.array([[[0, 0, 0], [255, 0, 0], [0, 128, 255]]], np.uint8)


def saved(folder: Path, pixels: np.ndarray, name: str = "a.png") -> Path:
    Image.fromarray(pixels).save(folder / name)
    return folder / name


@pytest.mark.parametrize(
    ("texts", "pixels", "wanted"),
    [
        (["0,128,255=0,1,2"], GREY, [0, 1, 2]),
        (["0=background", "128=cup"], GREY, [0, 1, 255]),  # 255 stays
        (["0,128,255=ignore,Traffic_Light,cup"], GREY, [255, 2, 1]),
        (["#000000=0", "#ff0000=cup", "#0080FF=ignore"], RGB, [0, 1, 255]),
        (["0,128,255=0,1,2"], np.repeat(GREY[..., None], 3, axis=2), [0, 1, 2]),  # grey in a colour file
        (["#000000,#808080,#ffffff=0,1,2"], GREY, [0, 1, 2]),  # colours of a grey file
        (["0,300,700=0,1,2"], np.array([[0, 300, 700]], np.uint16), [0, 1, 2]),
    ],
)
def test_values(texts: list[str], pixels: np.ndarray, wanted: list[int], tmp_path: Path) -> None:
    assert read_mask(saved(tmp_path, pixels), parse_mask_values(texts, SPEC, NAMES)).tolist() == [wanted]


@pytest.mark.parametrize(
    "text",
    ["# mine\n0,0,0 background\n255,0,0 cup\n0 128 255 ignore\n", "#000000 0\n#ff0000=cup\n0,128,255: 255",
     "# label:color_rgb:parts:actions\nbackground:0,0,0::\ncup:255,0,0::\nvoid:0,128,255::\n"],
)  # fmt: skip
def test_files(text: str, tmp_path: Path) -> None:
    (tmp_path / "colours.txt").write_text(text)
    values = parse_mask_values([str(tmp_path / "colours.txt")], SPEC, NAMES)
    assert read_mask(saved(tmp_path, RGB), values).tolist() == [[0, 1, 255]]


VOC_PERSON, VOC_AEROPLANE, VOC_BORDER = (192, 128, 128), (128, 0, 0), (224, 224, 192)  # as the data sets publish them
CITY_ROAD, CITY_CAR, ADE_WALL, ADE_FLAG, COCO_AIRPLANE = (
    (128, 64, 128), (0, 0, 142), (120, 120, 120), (92, 0, 255), (0, 64, 64)
)  # fmt: skip


@pytest.mark.parametrize(
    ("palette", "spec", "colours", "wanted"),
    [
        ("voc", spec_of("voc12"), [(0, 0, 0), VOC_AEROPLANE, VOC_PERSON, VOC_BORDER], [0, 1, 15, 255]),
        ("voc", spec_of("voc20"), [(0, 0, 0), VOC_AEROPLANE, VOC_PERSON, VOC_BORDER], [255, 0, 14, 255]),
        ("voc", SPEC, [(0, 0, 0), (128, 0, 0), (0, 128, 0)], [0, 1, 2]),  # as labelme draws own classes
        ("voc", DatasetSpec("d", ("person",), (("person",),), (), True, 0.4),
         [(0, 0, 0), VOC_AEROPLANE, VOC_PERSON], [0, 0, 1]),  # by name
        ("cityscapes", spec_of("cityscapes"), [CITY_ROAD, CITY_CAR, (0, 0, 0)], [0, 13, 255]),
        ("ade20k", spec_of("ade20k"), [ADE_WALL, ADE_FLAG], [0, 149]),
        ("coco-stuff", spec_of("cocostuff"), [COCO_AIRPLANE], [4]),
    ],
)  # fmt: skip
def test_palettes(palette: str, spec: DatasetSpec, colours: list[tuple], wanted: list[int], tmp_path: Path) -> None:
    values = parse_mask_values([palette], spec, NAMES)
    assert read_mask(saved(tmp_path, np.array([colours], np.uint8)), values).tolist() == [wanted]


def test_a_colour_of_two_classes_is_refused(tmp_path: Path) -> None:
    values = parse_mask_values(["coco-stuff"], spec_of("cocostuff"), NAMES)
    with pytest.raises(
        UserError, match=r"a\.png: holds the colour #00c040, which several classes of the palette share"
    ):
        read_mask(saved(tmp_path, np.array([[[0, 192, 64]]], np.uint8)), values)


def test_masks_of_this_project_are_read_as_they_are(tmp_path: Path) -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("made_by", "{}")
    Image.fromarray(GREY // 128).save(tmp_path / "a.png", pnginfo=info)
    assert read_mask(tmp_path / "a.png", parse_mask_values(["0,1=1,0"], SPEC, NAMES)).tolist() == [[0, 1, 1]]


def test_palette_pictures_have_indices_and_colours(tmp_path: Path) -> None:
    image = Image.fromarray(np.array([[0, 7]], np.uint8), "P")
    image.putpalette([0, 0, 0] * 7 + [255, 0, 0])
    image.save(tmp_path / "a.png")
    for text, wanted in (("0,7=0,2", [0, 2]), ("#000000,#ff0000=0,1", [0, 1])):
        assert read_mask(tmp_path / "a.png", parse_mask_values([text], SPEC, NAMES)).tolist() == [wanted]


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["255=1", "255=2", "0=0"], "255 stands for both mask value 1 and 2"),
        (["0,255=0"], "--mask_values 0,255=0: 2 values on the left and not as many right"),
        (["255=cap"], "'cap' is no class; did you mean 'cup'?, or background, or ignore"),
        (["255=3"], "mask value 3; there are 0 to 2, and 255 to ignore"),
        (["red=cup"], "'red' is no grey value and no colour"),
        (["vocc"], "--mask_values vocc: no such file and no palette (voc, coco-stuff, ade20k, cityscapes)"),
        (["0=0"], "a.png: holds the value 128, which --mask_values does not mention; add it"),
        (["#000000=0"], "a.png: holds the colour #808080, which --mask_values does not mention"),
    ],
)
def test_mistakes(texts: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as raised:
        read_mask(saved(tmp_path, GREY), parse_mask_values(texts, SPEC, NAMES))
    assert message in str(raised.value) and "\n" not in str(raised.value)


@pytest.mark.parametrize("text", ["255 cap\n", "x\n", "1,2,256 cup\n", "1,2 cup\n"])
def test_lines_of_a_file_are_named(text: str, tmp_path: Path) -> None:
    (tmp_path / "v.txt").write_text(f"0 0\n{text}")
    with pytest.raises(UserError, match=r"v\.txt, line 2: "):
        parse_mask_values([str(tmp_path / "v.txt")], SPEC, NAMES)
