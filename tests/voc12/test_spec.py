"""VOC's names and prompts, as the method's page lists them and as the official palette orders them."""

import pytest

from dataset.spec import DatasetSpec, prompts_with
from voc12.spec import SPEC

PROMPTS = """aeroplane/bicycle/bird avian/boat/bottle/bus/car/cat/chair seat/cow/diningtable/dog/horse/motorbike/
person with clothes,people,human/pottedplant/sheep/sofa/train/tvmonitor screen""".replace("\n", "").split("/")


def test_classes_are_voc_in_alphabetical_order() -> None:
    assert len(SPEC.classes) == 20 and list(SPEC.classes) == sorted(SPEC.classes)
    assert SPEC.label_names[0] == "background" and SPEC.label_names[15] == "person" and SPEC.num_labels == 21


def test_prompts() -> None:
    assert list(SPEC.prompts) == [(prompt,) for prompt in PROMPTS]
    assert SPEC.template == "a clean origami {}." and SPEC.box_threshold == 0.4


def test_background_prompts() -> None:
    words = "ground,land,grass,tree,building,wall,sky,lake,water,river,sea,railway,railroad,keyboard,helmet,cloud,house"
    words += ",mountain,ocean,road,rock,street,valley,bridge,sign"
    assert ",".join(SPEC.background_prompts) == words and len(SPEC.background_prompts) == 25


def test_a_spec_without_background_starts_its_labels_with_the_first_class() -> None:
    spec = DatasetSpec("x", ("a", "b"), (("a",), ("b",)), (), False, 0.5)
    assert spec.label_names == ("a", "b") and spec.num_labels == 2


def test_mistakes_in_a_spec_are_told() -> None:
    with pytest.raises(ValueError, match="2 classes but prompts for 1"):
        DatasetSpec("x", ("a", "b"), (("a",),), (), True, 0.5)
    with pytest.raises(ValueError, match=r"unseen classes \(2,\) of 2"):
        DatasetSpec("x", ("a", "b"), (("a",), ("b",)), (), True, 0.5, unseen=(2,))
    with pytest.raises(ValueError, match="brid"):
        prompts_with(("bird",), {"brid": "bird avian"})
