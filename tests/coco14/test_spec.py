"""The words of COCO are those of the specification, letter for letter."""

import re

import pytest

from coco14.spec import BACKGROUND, CLASSES, OFFICIAL_NAMES, SPEC
from tests.support import SHARED
from voc12.spec import BACKGROUND as VOC_BACKGROUND


@pytest.fixture(scope="module")
def section() -> str:
    path = SHARED / "spec" / "clip_es.md"
    if not path.is_file():
        pytest.skip(f"needs {path}, which is not part of the project")
    text = path.read_text(encoding="utf-8")
    return " ".join(text[text.index("## 7.") : text.index("## 8.")].split())


def test_names(section: str) -> None:
    names = re.search(r"COCO names \(80, this order\): (.*?)\. COCO prompt", section)
    assert names is not None and tuple(names[1].split(", ")) == CLASSES == SPEC.classes


def test_prompts(section: str) -> None:
    text = section[section.index("COCO prompt differs") : section.index("COCO background")]
    pairs = dict(re.findall(r"(?:: |; )([a-z ]+) -> `([^`]+)`", text))
    assert len(pairs) == 13
    assert {name: prompts for name, prompts in zip(SPEC.classes, SPEC.prompts) if prompts != (name,)} == {
        name: (prompt,) for name, prompt in pairs.items()
    }


def test_the_rest() -> None:
    assert tuple(BACKGROUND) == tuple(word for word in VOC_BACKGROUND if word not in ("keyboard", "sign"))
    assert len(BACKGROUND) == 23 and SPEC.background_prompts == tuple(BACKGROUND)
    assert SPEC.box_threshold == 0.7 and SPEC.has_background and SPEC.num_labels == 81
    assert set(OFFICIAL_NAMES.values()) < set(CLASSES) and not set(OFFICIAL_NAMES) & set(CLASSES)
