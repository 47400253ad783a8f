"""Prompt templates by name, and which set a model can read.

`{}` stands for the class name.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from clip.load import Clip
from clip.text import fill_template, unknown_words

# The 80 sentences that OpenAI published with CLIP for ImageNet, in their order.
IMAGENET80: tuple[str, ...] = tuple(Path(__file__).with_name("imagenet80.txt").read_text("utf-8").splitlines())

# MaskCLIP's set, which TagCLIP took over: five sentences more.
MASKCLIP85 = (
    *IMAGENET80,
    "there is a {} in the scene.",
    "there is the {} in the scene.",
    "this is a {} in the scene.",
    "this is the {} in the scene.",
    "this is one {} in the scene.",
)

# zsseg.baseline's sets: one sentence, and the fourteen of ViLD (Gu et al., ICLR 2022), of which the first five end as
# they were published.
SINGLE = ("a sculpture of a {}.",)
VILD14 = (
    "a photo of a {}.",
    "This is a photo of a {}",
    "There is a {} in the scene",
    "There is the {} in the scene",
    "a photo of a {} in the scene",
    *(f"a photo of a {size} {{}}." for size in ("small", "medium", "large")),
    *(f"This is a photo of a {size} {{}}." for size in ("small", "medium", "large")),
    *(f"There is a {size} {{}} in the scene." for size in ("small", "medium", "large")),
)

# SegCLIP's sets besides the 80: one sentence, and the seven that OpenAI's notebook found to be best together.
SIMPLE = ("a photo of a {}.",)
SEGCLIP7 = (
    "itap of a {}.",
    "a bad photo of a {}.",
    "a origami {}.",
    "a photo of the large {}.",
    "a {} in a video game.",
    "art of the {}.",
    "a photo of the small {}.",
)

# The pip package's small set: nine patterns with "a", then with "the" before the name.
_PATTERNS = (
    "a photo of {article} {}.",
    "a blurry photo of {article} {}.",
    "a black and white photo of {article} {}.",
    "a low contrast photo of {article} {}.",
    "a high contrast photo of {article} {}.",
    "a bad photo of {article} {}.",
    "a good photo of {article} {}.",
    "a photo of {article} small {}.",
    "a photo of {article} big {}.",
)
BASE18 = tuple(pattern.replace("{article}", article) for article in ("a", "the") for pattern in _PATTERNS)


@dataclass(frozen=True)
class Words:
    """What a CLIP is asked for: K lists of names, and the templates that each name is put into.

    Learned prompts stand in place of the templates.

    unit  whether the embeddings of a name's sentences are of unit length before their mean is taken
    separate  every name has an embedding of its own; else a list of names has one, their mean
    """

    names: Sequence[Sequence[str]]
    templates: Sequence[str]
    unit: bool = True
    separate: bool = False

    @property
    def counts(self) -> list[int]:
        """How many embeddings each list of names has."""
        return [len(names) if self.separate else 1 for names in self.names]

    def one_by_one(self) -> "Words":
        """The same with one list an embedding."""
        names = [(name,) for names in self.names for name in names]
        return replace(self, names=names, separate=False) if self.separate else self

    def sentences(self) -> list[list[str]]:
        """Every name in every template, K lists."""
        return fill_templates(self.templates, self.names)


def knows_templates(clip: Clip, templates: Sequence[str]) -> bool:
    """Whether the model saw every word of the templates in training; a toy world's CLIP has a small vocabulary."""
    return not unknown_words(clip, [template.replace("{}", "") for template in templates])


def choose_templates(clip: Clip, name: str) -> str:
    """ "auto" to "maskclip85", or to "dataset" for a model that never saw the words of those templates."""
    if name != "auto":
        return name
    return "maskclip85" if knows_templates(clip, MASKCLIP85) else "dataset"


def fill_templates(templates: Sequence[str], names: Sequence[Sequence[str]]) -> list[list[str]]:
    """Put every name into every template: K lists of names to K lists of len(names) * len(templates) prompts.

    `encode_prompts` makes one embedding of each list.
    """
    filled = [fill_template(template, names) for template in templates]
    return [[prompt for by_class in filled for prompt in by_class[index]] for index in range(len(names))]
