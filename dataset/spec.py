"""What the stages need to know of a data set: two frozen dataclasses."""

from dataclasses import dataclass
from pathlib import Path

IGNORE_INDEX = 255  # ground truth: not scored; written masks: not confident enough to train on
EVERY_CLASS = "all"  # of --labels: all classes for every image


@dataclass(frozen=True)
class DatasetSpec:
    """The classes of a data set and the words CLIP knows them by.

    classes             K names, in label order; with a background class, mask value = index + 1
    prompts             K tuples of prompt texts (without template); several are fused to one embedding
    background_prompts  b texts that compete in the softmax and stand for "none of the classes"
    has_background      mask value 0 is "background" (VOC, COCO) rather than the first class
    box_threshold       share of the CAM maximum above which a pixel enters a box (CLIP-ES, section 3.2)
    template            the prompt sentence; `{}` is the name
    aliases             pairs (other spelling, class name) that label files may use
    plain_prompts       K tuples as above for MaskCLIP, which asks for plain names; (): the prompts
    maskclip_frame      (long, short) sides that MaskCLIP's images are scaled to just fit into; (): their own size
    tagged_by_name      TagCLIP asks for the bare class names, as its code does for VOC and COCO, not for the prompts
    unseen              indices of the classes that the field's zero-shot split leaves without labels; (): no such split
    """

    name: str
    classes: tuple[str, ...]
    prompts: tuple[tuple[str, ...], ...]
    background_prompts: tuple[str, ...]
    has_background: bool
    box_threshold: float
    template: str = "a clean origami {}."
    aliases: tuple[tuple[str, str], ...] = ()
    plain_prompts: tuple[tuple[str, ...], ...] = ()
    maskclip_frame: tuple[int, ...] = (2048, 512)
    tagged_by_name: bool = False
    unseen: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for prompts in filter(None, (self.prompts, self.plain_prompts)):
            if len(self.classes) != len(prompts):
                raise ValueError(f"{self.name}: {len(self.classes)} classes but prompts for {len(prompts)}")
        if not set(self.unseen) <= set(range(len(self.classes))):
            raise ValueError(f"{self.name}: unseen classes {self.unseen} of {len(self.classes)}")

    @property
    def num_labels(self) -> int:
        """Number of mask values that are scored: the classes and, where there is one, the background."""
        return len(self.classes) + int(self.has_background)

    @property
    def label_names(self) -> tuple[str, ...]:
        """Names by mask value."""
        return ("background", *self.classes) if self.has_background else self.classes

    @property
    def unseen_labels(self) -> tuple[int, ...]:
        """Mask values of the unseen classes. The background, where there is one, is among the seen."""
        return tuple(index + int(self.has_background) for index in self.unseen)


@dataclass(frozen=True)
class Sample:
    """One image of a data set: its id, where it lies, and the classes present (0-based, in label order)."""

    id: str
    image: Path
    labels: tuple[int, ...]


def prompts_with(classes: tuple[str, ...], differing: dict[str, str]) -> tuple[tuple[str, ...], ...]:
    """One prompt a class: its name, or what `differing` gives for it."""
    unknown = set(differing) - set(classes)
    if unknown:
        raise ValueError(f"prompts given for unknown classes: {sorted(unknown)}")
    return tuple((differing.get(name, name),) for name in classes)
