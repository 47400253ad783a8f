"""What the commands need to know of a data set: the frozen spec that each data set writes once."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

EVERY_CLASS = "all"  # of --labels
BY_CLIP = "clip"  # of --labels: TagCLIP names them; for generate_cams.py and scripts.segment alone
IGNORE_INDEX = 255  # ground truth: not scored; written masks: not confident enough to train on
VOC_THRESHOLD = 0.4  # box threshold of VOC in CLIP-ES, and of data sets that it was not published on
VOC, LABELLED_SPLIT, BY_PATH = "voc", "labelled split", "by path"  # layouts, see DatasetSpec


@dataclass(frozen=True)
class RawForm:
    """One form in which a data set's annotations are distributed.

    values        mask value by raw value, see DatasetSpec, or 255; a file with any other raw value is refused
    ending        how the files' names end
    image_ending  what the names of the images have in its place, before their suffix
    beside        endings of other files in the same folders, which are passed over
    nested        whether files lie in folders below too, which are part of the ids then
    variable      of MATLAB files, the matrix of raw values, or `struct.field`; empty: the files are PNGs
    """

    values: Mapping[int, int]
    ending: str = ".png"
    image_ending: str = ""
    beside: tuple[str, ...] = ()
    nested: bool = True
    variable: str = ""


@dataclass(frozen=True)
class RawData:
    """A data set's annotations: what their folder is, to people, its forms, and the number of images of each split."""

    holds: str
    forms: tuple[RawForm, ...]
    counts: Mapping[str, int]


@dataclass(frozen=True)
class DatasetSpec:
    """The classes of a data set, the words CLIP knows them by, its layout and its defaults.

    classes             K names, in label order; with a background class, mask value = index + 1
    prompts             K tuples of prompt texts (without template); several are fused to one embedding
    background_prompts  b texts that compete in the softmax and stand for "none of the classes"
    has_background      mask value 0 is "background" (VOC, COCO) rather than the first class
    box_threshold       share of the CAM maximum above which a pixel enters a box (CLIP-ES, 2023, section 3.2)
    template            the prompt sentence; `{}` is the name
    aliases             pairs (other spelling, class name) that label files may use
    plain_prompts       K tuples as above for MaskCLIP, which asks for plain names; (): the prompts
    tags_by_name        TagCLIP asks for the class names as they are, and not for the prompts
    maskclip_frame      (long, short) sides that MaskCLIP's images are scaled to just fit into; (): their own size
    segclip_prompts     K tuples as above for SegCLIP; (): the plain prompts
    segclip_threshold   score below which SegCLIP sees background (ICML 2023, where it was published)
    unseen              indices of the classes that the field's zero-shot split leaves without labels; (): no such split
    unseen_sets         parts of the unseen classes that have scores of their own: (name, indices)
    numbers             by which the data set's own files of predictions name the classes; (): the indices
    layout              VOC: folders and splits of VOC; LABELLED_SPLIT: the lines of a split file hold the labels too;
                        BY_PATH: all images below a folder, labels and masks are given
    images              what --img_root is, to people
    make_images         makes the images where none are given, and returns their folder
    clip                its CLIP where none is given: (open_clip name, tag), or (file, None)
    raw                 its annotations as they are distributed, for scripts/prepare_dense.py
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
    tags_by_name: bool = False
    maskclip_frame: tuple[int, ...] = (2048, 512)
    segclip_prompts: tuple[tuple[str, ...], ...] = ()
    segclip_threshold: float = 0.8
    unseen: tuple[int, ...] = ()
    unseen_sets: tuple[tuple[str, tuple[int, ...]], ...] = ()
    numbers: tuple[int, ...] = ()
    layout: str = BY_PATH
    images: str = "the folder of your images"
    make_images: Callable[[], Path] | None = None
    clip: tuple[str, str | None] = ("ViT-B-16", "openai")
    raw: RawData | None = None

    def __post_init__(self) -> None:
        for prompts in filter(None, (self.prompts, self.plain_prompts, self.segclip_prompts)):
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
    def seen(self) -> tuple[int, ...]:
        """Indices of the classes that are not unseen; without a split all."""
        return tuple(index for index in range(len(self.classes)) if index not in self.unseen)

    @property
    def unseen_labels(self) -> tuple[int, ...]:
        """Mask values of the unseen classes. The background, where there is one, is among the seen."""
        return tuple(index + int(self.has_background) for index in self.unseen)

    @property
    def label_sets(self) -> dict[str, tuple[int, ...]]:
        """Mask values of the sets of classes that are scored by themselves: "base", the seen ones; none: no split."""
        if not self.unseen:
            return {}
        first, unseen = int(self.has_background), set(self.unseen_labels)
        parts = {name: tuple(index + first for index in indices) for name, indices in self.unseen_sets}
        return {"base": tuple(label for label in range(self.num_labels) if label not in unseen), **parts}

    @property
    def has_usual_masks(self) -> bool:
        """Whether ground truth lies beside the images: VOC's masks, which count from the background on."""
        return self.layout == VOC and self.has_background

    def words(self) -> dict[str, object]:
        """Names and prompts, as records of how a file was made hold them (JSON)."""
        names = ("name", "classes", "prompts", "background_prompts", "template", "tags_by_name")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True)
class Sample:
    """One image of a data set: its id, where it lies, and the classes present (0-based, in label order)."""

    id: str
    image: Path
    labels: tuple[int, ...]


def prompts_with(classes: tuple[str, ...], differing: Mapping[str, str]) -> tuple[tuple[str, ...], ...]:
    """One prompt a class: its name, or what `differing` gives for it."""
    unknown = set(differing) - set(classes)
    if unknown:
        raise ValueError(f"prompts given for unknown classes: {sorted(unknown)}")
    return tuple((differing.get(name, name),) for name in classes)


def in_order(classes: Iterable[int], unlabelled: Iterable[int]) -> dict[int, int]:
    """Mask values for raw values that stand for the classes in their order, and for others that are not scored."""
    indices = {value: index for index, value in enumerate(classes)}
    return indices | dict.fromkeys(unlabelled, IGNORE_INDEX)
