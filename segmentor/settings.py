"""The settings of a training run, whose fields are the options of scripts/train_segmentor.py.

Two runs with equal settings on one machine give the same weights; what cannot change them is not in here. This file
imports nothing heavy: `--help` reads it.
"""

import argparse
import json
from dataclasses import asdict, dataclass, field
from typing import Any

from common.arguments import count, not_negative, option, positive, scale, share
from common.version import VERSION
from training.schedule import polynomial

SEGFORMERS = tuple(f"segformer-{size}" for size in ("b0", "b1", "b2", "b3", "b4", "b5", "tiny"))
DEEPLABS = {  # by their names in torchvision
    "deeplabv3-resnet50": "deeplabv3_resnet50",
    "deeplabv3-resnet101": "deeplabv3_resnet101",
    "deeplabv3-mobilenet": "deeplabv3_mobilenet_v3_large",
}
HEADS = ("linear", "text")
TEACHERS = ("maskclip", "maskclip-v")
NORMALISATIONS = ("imagenet", "clip")
PRECISIONS = ("float32", "bfloat16", "float16")
BY_OPTIMIZER: dict[str, dict[str, Any]] = {  # what is not given: the values of the published trainings
    "adamw": {"lr": 6e-5, "min_lr": 0.0, "weight_decay": 0.004, "power": 1.0, "head_factor": 10.0, "warmup": 1500},
    "sgd": {"lr": 0.01, "min_lr": 1e-4, "weight_decay": 5e-4, "power": 0.9, "head_factor": 1.0, "warmup": 0},
}
LONGEST_WARMUP = 10  # a warm-up that is not given takes at most this part of the iterations


def factor(text: str) -> float:
    """argparse type: a factor from 0.05 to 20."""
    value = float(text)
    if not 0.05 <= value <= 20:
        raise argparse.ArgumentTypeError(f"{text}: expected a factor from 0.05 to 20")
    return value


BOX = option(
    None, "fit into this box (long and short side) before that", flag="--resize", type=positive, many=2, metavar="N"
)
PRECISION = option("float32", "of the network", flag="--precision", choices=PRECISIONS)


@dataclass(frozen=True)
class Views:
    """How training images are varied; `resize` is (long, short), and None keeps an image's own size."""

    crop: int = option(512, "side of the square that is cut out", type=positive, metavar="N")
    scales: tuple[float, float] = option((0.5, 2.0), "least and greatest random size", type=factor, many=2, metavar="X")
    resize: tuple[int, int] | None = BOX
    flip: bool = option(True, "never mirror", flag="--no_flip")
    colours: bool = option(True, "never vary brightness, contrast, saturation, hue", flag="--no_colours")
    normalisation: str = option("imagenet", "mean and deviation of the input", choices=NORMALISATIONS)


@dataclass(frozen=True)
class InferenceSettings:
    """How a trained network looks at an image; scales are factors of the size at which it fits into `resize`."""

    normalisation: str
    scales: tuple[float, ...] = option((1.0,), "sizes whose probabilities are averaged", type=scale, many=True)
    resize: tuple[int, int] | None = BOX
    flip: bool = option(False, "average with the mirrored image")
    precision: str = PRECISION


@dataclass(frozen=True)
class Teaching:
    """Which labels are hidden from the network, and who finds them instead (MaskCLIP+: Zhou et al., 2022, section 3.3).

    masks     whether there are mask files; without them all of every image is hidden
    hidden    mask values
    teacher   one of pipeline.methods.table.METHODS that is dense; "": nobody teaches
    guided    the first and the last iteration, counted from 1, in which the teacher finds the hidden labels
    own_from  the first iteration in which the network finds them itself; 0: never
    """

    masks: bool = True
    hidden: tuple[int, ...] = ()
    teacher: str = option(
        "",
        "a frozen MaskCLIP as its official code has it, or as its pip package (their methods in generate_cams.py)",
        choices=TEACHERS,
    )
    guided: tuple[int, int] = option(
        (0, 0),
        "FIRST and LAST iteration in which the teacher labels, from 1; not given: all before --self_train_from",
        type=positive,
        many=2,
        metavar="N",
    )
    own_from: int = option(
        0,
        "the iteration from which the network labels the hidden pixels itself; 0: never",
        flag="--self_train_from",
        type=count,
        metavar="N",
    )
    confidence: float = option(
        0.0,
        "where the teacher's highest probability is lower, a hidden pixel stays without label; 0: nowhere",
        flag="--teacher_confidence",
        metavar="X",
    )
    padding: bool = option(False, "it sees the padding of crops, as published", flag="--teacher_padding")
    refined: bool = option(
        False, "CLIP's own attention spreads its scores first, as generate_cams.py does", flag="--teacher_refined"
    )
    pamr: int = option(
        0,
        "steps of pixel-adaptive refinement of what it says; 0: none",
        flag="--teacher_pamr",
        type=count,
        metavar="STEPS",
    )
    key_smoothing: float = option(0.0, "0: off; 1.0 where published", metavar="X")
    smoothing_norm: str = option("position", "as in generate_cams.py", choices=("position", "channel"))
    denoising: float = option(0.0, "0: off; 0.5: published", flag="--prompt_denoising", metavar="X")

    def finder(self, iteration: int) -> str:
        """Who finds the hidden labels in an iteration, counted from 1: "teacher", "network" or "" for nobody."""
        if self.teacher and self.guided[0] <= iteration <= self.guided[1]:
            return "teacher"
        return "network" if 0 < self.own_from <= iteration else ""


@dataclass(frozen=True)
class ClipIdentity:
    """Which CLIP tells what the classes' names mean, and how it is asked; empty where there is none.

    learned  names the learned prompts that stand in place of the templates
    """

    model: str = ""
    activation: str = ""
    prompts: str = ""
    templates: str = ""
    learned: str | None = None


NESTED = {"views": "view_", "teaching": "teaching_", "words": "clip_"}  # fields, and how what is in them is recorded


@dataclass(frozen=True)
class Settings:
    """All settings of a run; None in those of the optimiser becomes the value of BY_OPTIMIZER.

    labels      names by mask value
    images      how many there are to train on
    ranks       processes; `batch` is of each, and batch norms see one batch
    background  whether label 0 is the background
    text_width  D of the text head
    ema         the running mean is then what is validated and written
    """

    labels: tuple[str, ...]
    images: int
    ranks: int = 1
    background: bool = True
    text_width: int = 0
    views: Views = field(default_factory=Views)
    teaching: Teaching = field(default_factory=Teaching)
    words: ClipIdentity = field(default_factory=ClipIdentity)
    arch: str = option("segformer-b0", "segformer-tiny is for the toy world", choices=(*SEGFORMERS, *DEEPLABS))
    head: str = option(
        "linear",
        "linear: learned; text: features times the text embeddings of --clip, which stay as they are (MaskCLIP+)",
        choices=HEADS,
    )
    pretrained: str = option(
        "",
        "weights to start from: of an earlier training, of transformers (nvidia/mit-b0) for SegFormer, of torchvision "
        "(ResNet101_Weights.IMAGENET1K_V2) for DeepLab; not given: random. CLIP has options of its own",
        type=str,
        metavar="FILE|DIR|NAME",
    )
    precision: str = PRECISION
    max_iters: int = option(20000, "changes of the weights", type=positive, metavar="N")
    batch: int = option(8, "images that go together", flag="--batch_size", type=positive, metavar="N")
    accumulate: int = option(1, "batches before the weights change", type=positive, metavar="N")
    optimizer: str = option("adamw", "adamw: beta .9, .999; sgd: momentum .9", choices=tuple(BY_OPTIMIZER))
    lr: float = option(None, "not given: 6e-5 with adamw, 0.01 with sgd", type=not_negative, metavar="X")
    min_lr: float = option(None, "at the end; not given: 0, 1e-4 with sgd", type=not_negative, metavar="X")
    weight_decay: float = option(None, "not given: 0.004, 5e-4 with sgd", type=not_negative, metavar="X")
    warmup: int = option(
        None, "iterations; not given: 1500, 0 with sgd, at most a tenth of the run", type=count, metavar="N"
    )
    power: float = option(
        None, "of the schedule; not given: 1, 0.9 with sgd", flag="--poly", type=not_negative, metavar="X"
    )
    head_factor: float = option(
        None,
        "times --lr for decoder and head; not given: 10, 1 with sgd",
        flag="--head_lr",
        type=not_negative,
        metavar="X",
    )
    loss: str = option("ce", "balanced: background and classes weigh one half each", choices=("ce", "balanced"))
    loss_over: str = option("valid", "all: ignored pixels count too, as in mmseg", choices=("valid", "all"))
    ema: float = option(0.0, "decay of a running mean of the weights, 0.999", type=share, metavar="X")
    seed: int = option(0, "of start weights, order and views", type=count)
    code: str = VERSION

    def __post_init__(self) -> None:
        usual = dict(BY_OPTIMIZER[self.optimizer])
        usual["warmup"] = min(usual["warmup"], self.max_iters // LONGEST_WARMUP)
        for name, value in usual.items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)

    def rate(self, iteration: int) -> float:
        """The learning rate of a 0-based iteration."""
        return polynomial(iteration, self.lr, self.max_iters, self.power, self.min_lr, self.warmup)

    def record(self) -> dict[str, Any]:
        """All of it on one level, as JSON gives it back."""
        record = asdict(self)
        for name, prefix in NESTED.items():
            record |= {prefix + part: value for part, value in record.pop(name).items()}
        return json.loads(json.dumps(record))
