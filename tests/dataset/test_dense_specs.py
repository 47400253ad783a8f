"""Names, raw values and splits against torchvision's lists, the specification's text, and the data sets' own tables."""

import re

import pytest
from torchvision.datasets import Cityscapes
from torchvision.models._meta import _COCO_CATEGORIES, _VOC_CATEGORIES

from cli.datasets import SPECS
from cli.lookup import dataset_spec
from coco14 import cocoobject, cocostuff
from coco14.spec import SPEC as COCO14
from dataset import ade20k, cityscapes
from tests.support import SHARED
from voc12 import context59, context60, voc20
from voc12.spec import SPEC as VOC12

MODULES = {"voc20": voc20, "context59": context59, "cocostuff": cocostuff, "ade20k": ade20k, "cityscapes": cityscapes}


@pytest.fixture(scope="module")
def facts() -> str:
    path = SHARED / "spec" / "other_systems.md"
    if not path.is_file():
        pytest.skip(f"needs {path}, which is not part of the project")
    return " ".join(path.read_text(encoding="utf-8").split())


def test_the_command_prepares_what_has_no_background_and_its_twins_that_have() -> None:
    prepared = [name for name in SPECS if dataset_spec(name).raw]
    assert [name for name in SPECS if not dataset_spec(name).has_background] == list(MODULES)
    assert set(prepared) == {*MODULES, "context60", "cocoobject"}


@pytest.mark.parametrize(
    ("name", "count", "frame", "unseen"),
    [
        ("voc20", 20, (2048, 512), 5),
        ("context59", 59, (520, 520), 10),
        ("cocostuff", 171, (2048, 512), 15),
        ("ade20k", 150, (2048, 512), 0),
        ("cityscapes", 19, (1024, 512), 0),
    ],
)
def test_counts(name: str, count: int, frame: tuple[int, int], unseen: int) -> None:
    spec = dataset_spec(name)
    assert spec.name == name and len(spec.classes) == len(set(spec.classes)) == count == spec.num_labels
    assert spec.label_names == spec.classes and spec.maskclip_frame == frame
    assert len(set(spec.unseen)) == len(spec.unseen) == unseen and spec.unseen_labels == spec.unseen
    for form in spec.raw.forms:
        assert sorted(set(form.values.values()) - {255}) == list(range(count))


# --- VOC ------------------------------------------------------------------------------------------


def test_voc_without_background_is_voc() -> None:
    assert list(voc20.SPEC.classes) == _VOC_CATEGORIES[1:]
    (form,) = voc20.SPEC.raw.forms
    assert [form.values[value] for value in (0, 255, 1, 20)] == [255, 255, 0, 19]
    assert VOC12.unseen_labels == (16, 17, 18, 19, 20) and VOC12.has_background
    names = [VOC12.label_names[label] for label in VOC12.unseen_labels]
    assert names == ["pottedplant", "sheep", "sofa", "train", "tvmonitor"]
    assert COCO14.unseen == ()


# --- PASCAL-Context -------------------------------------------------------------------------------


def test_context_names_and_numbers_are_the_published_ones(facts: str) -> None:
    names = re.search(r"0 = background\): (aeroplane bag .*? wood)\.", facts)
    numbers = re.search(r"sorted list of the 60 raw ids \{([0-9 ]+)\}", facts)
    assert names is not None and tuple(names[1].split()) == context59.CLASSES
    assert numbers is not None
    matlab, png = context59.SPEC.raw.forms
    in_list = sorted(int(number) for number in numbers[1].split())
    assert {raw: matlab.values[raw] for raw in in_list[1:]} == {raw: in_list.index(raw) - 1 for raw in in_list[1:]}
    assert set(matlab.values) == set(range(460)) and sum(value != 255 for value in matlab.values.values()) == 59
    assert png.values == {0: 255, 255: 255} | {value: value - 1 for value in range(1, 60)}


def test_context_with_background_counts_from_it_on(facts: str) -> None:
    numbers = re.search(r"sorted list of the 60 raw ids \{([0-9 ]+)\}", facts)
    assert numbers is not None
    in_list = sorted(int(number) for number in numbers[1].split())
    matlab, png = context60.SPEC.raw.forms
    assert matlab.values == {raw: in_list.index(raw) if raw in in_list else 0 for raw in range(460)}
    assert png.values == {255: 255} | {value: value for value in range(60)}
    spec = context60.SPEC
    assert spec.label_names == ("background", *context59.CLASSES) and spec.segclip_threshold == 0.25


def test_context_classes_and_numbers_are_both_in_alphabetical_order() -> None:
    """As the 459 labels are, so that the n-th number is the n-th class."""
    assert list(context59.CLASSES) == sorted(context59.CLASSES)
    assert list(context59.NUMBERS_OF_459) == sorted(context59.NUMBERS_OF_459)


def test_context_prompts_and_unseen() -> None:
    said = {name: prompts[0] for name, prompts in zip(context59.CLASSES, context59.SPEC.prompts) if prompts[0] != name}
    assert said == {"aeroplane": "airplane", "pottedplant": "potted plant", "tvmonitor": "tv monitor"}
    names = [context59.CLASSES[index] for index in context59.SPEC.unseen]
    assert names == "cow motorbike sofa cat boat fence bird tvmonitor keyboard aeroplane".split()


# --- COCO's things ---------------------------------------------------------------------------------


def test_things_and_their_background_are_the_published_ones(facts: str) -> None:
    """A category's id, which is its raw value + 1, becomes its number among those that are used."""
    rule = "0 background, 1..80 = things; built from the same table: id+1, and every raw id > 90 (incl. 255!) → 0"
    assert rule in facts
    (form,) = cocoobject.SPEC.raw.forms
    used = [number for number, name in enumerate(_COCO_CATEGORIES[1:]) if name != "N/A"]
    names = [name for name in _COCO_CATEGORIES[1:] if name != "N/A"]
    assert {number: form.values[number] for number in used} == {number: 1 + i for i, number in enumerate(used)}
    assert set(form.values) - set(used) == {*range(91, 182), 255}
    assert not any(form.values[value] for value in set(form.values) - set(used))
    assert list(cocoobject.SPEC.classes) == names and cocoobject.SPEC.label_names[0] == "background"
    assert cocoobject.SPEC.segclip_threshold == 0.65 and cocoobject.SPEC.num_labels == 81


# --- COCO-Stuff -----------------------------------------------------------------------------------


def test_things_are_cocos_categories() -> None:
    """A raw value is the category's id - 1; the ids that COCO never used have no value."""
    (form,) = cocostuff.SPEC.raw.forms
    for number, name in enumerate(_COCO_CATEGORIES[1:]):
        if name == "N/A":
            assert number not in form.values
        else:
            assert cocostuff.CLASSES[form.values[number]] == name


@pytest.mark.parametrize(
    ("category", "name"),
    [(92, "banner"), (117, "floor-tile"), (118, "floor-wood"), (119, "flower"), (123, "furniture-other"),
     (130, "light"), (148, "river"), (149, "road"), (157, "sky-other"), (172, "wall-concrete"), (178, "water-other"),
     (182, "wood")],
)  # fmt: skip
def test_stuff_follows_the_ids_of_its_annotation_file(category: int, name: str) -> None:
    (form,) = cocostuff.SPEC.raw.forms
    assert cocostuff.CLASSES[form.values[category - 1]] == name


def test_vectors_of_the_specification() -> None:
    (form,) = cocostuff.SPEC.raw.forms
    assert [form.values[raw] for raw in (12, 91, 181, 171, 255)] == [11, 80, 170, 160, 255]
    assert set(range(182)) - set(form.values) == {11, 25, 28, 29, 44, 65, 67, 68, 70, 82, 90}
    assert cocostuff.CLASSES[160] == "wall-concrete" and len(form.values) == 172


def test_stuff_unseen() -> None:
    (form,) = cocostuff.SPEC.raw.forms
    names = [cocostuff.CLASSES[index] for index in cocostuff.SPEC.unseen]
    wanted = "cow giraffe suitcase frisbee skateboard carrot scissors cardboard clouds grass playingfield river road"
    assert names == [*wanted.split(), "tree", "wall-concrete"]
    raw = (20, 24, 32, 33, 40, 56, 86, 99, 105, 123, 144, 147, 148, 168, 171)
    assert tuple(form.values[value] for value in raw) == cocostuff.SPEC.unseen


def test_stuff_prompts_are_said_in_words() -> None:
    said = [prompts[0] for prompts in cocostuff.SPEC.prompts]
    assert sum(prompt != name for prompt, name in zip(said, cocostuff.CLASSES)) == 29
    assert not any("-" in prompt for prompt in said) and len(set(said)) == 171


# --- ADE20K and Cityscapes --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "name"),
    [(1, "wall"), (7, "road"), (13, "person"), (21, "car"), (37, "lamp"), (38, "bathtub"), (45, "chest of drawers"),
     (48, "sink"), (49, "skyscraper"), (53, "path"), (77, "boat"), (91, "airplane"), (128, "bicycle"),
     (137, "traffic light"), (142, "crt screen"), (150, "flag")],
)  # fmt: skip
def test_ade_follows_the_numbers_of_the_challenge(number: int, name: str) -> None:
    (form,) = ade20k.SPEC.raw.forms
    assert ade20k.CLASSES[form.values[number]] == name


def test_ade_zero_is_other() -> None:
    (form,) = ade20k.SPEC.raw.forms
    assert form.values[0] == 255 and set(form.values) == set(range(151))


def test_cityscapes_is_torchvisions_table() -> None:
    (form,) = cityscapes.SPEC.raw.forms
    table = {entry.id: entry for entry in Cityscapes.classes if entry.id >= 0}  # -1, plates, is never drawn
    assert form.values == {number: entry.train_id for number, entry in table.items()}
    names = {entry.train_id: entry.name for entry in table.values() if entry.train_id != 255}
    assert [names[index] for index in range(19)] == list(cityscapes.CLASSES)
