"""The settings of a MaskFormer's training, whose fields are the options of scripts/train_zsseg.py.

Two runs with equal settings on one machine give the same weights; what cannot change them is not in here. This file
imports nothing heavy: `--help` reads it.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from common.arguments import count, not_negative, option, positive, share
from common.version import VERSION
from training.schedule import polynomial
from zsseg.presets import PRESETS, Preset
from zsseg.sizes import NETWORKS, Sizes

PRECISIONS = ("float32", "bfloat16", "float16")


@dataclass(frozen=True)
class Settings:
    """All settings of a run; None becomes the value of the preset.

    names       of the classes that are trained on
    images      how many there are to train on
    ranks       processes; `batch` is of each
    text_width  of the text embeddings
    words       which CLIP made them, and of which words
    """

    names: tuple[str, ...]
    images: int
    ranks: int = 1
    text_width: int = 512
    words: Mapping[str, str] = field(default_factory=dict)
    preset: str = option(
        "voc-15-R50", "a published configuration; what else is given goes before it", choices=tuple(PRESETS)
    )
    network: str = option(None, "tiny is for the toy world", choices=tuple(NETWORKS))
    pretrained: str = option(
        "",
        "weights to start from: a file of ImageNet weights of the backbone (torchvision's or detectron2's names), "
        "torchvision's name of them (ResNet50_Weights.IMAGENET1K_V1), or weights of an earlier training with the same "
        "classes; not given: random, and frozen norms cannot learn",
        type=str,
        metavar="FILE|NAME",
    )
    precision: str = option("float32", "of the network", choices=PRECISIONS)
    max_iters: int = option(None, "changes of the weights", type=positive, metavar="N")
    batch: int = option(
        None, "images that go together in each process", flag="--batch_size", type=positive, metavar="N"
    )
    accumulate: int = option(1, "batches before the weights change", type=positive, metavar="N")
    lr: float = option(1e-4, "AdamW's rate at the start", type=not_negative, metavar="X")
    backbone_lr: float = option(0.1, "times --lr for the backbone", type=not_negative, metavar="X")
    weight_decay: float = option(1e-4, "but of norms and queries", type=not_negative, metavar="X")
    warmup: int = option(0, "iterations", type=count, metavar="N")
    clip_norm: float = option(0.01, "longest gradient", type=not_negative, metavar="X")
    sides: tuple[int, ...] = option(
        None, "of which one is the short side of an image; not given: half to one and a half times --short_side",
        type=positive, many=True, metavar="N",
    )  # fmt: skip
    crop: int = option(None, "side of the square that is cut out", type=positive, metavar="N")
    flip: bool = option(True, "never mirror", flag="--no_flip")
    colours: bool = option(True, "never vary brightness, contrast, saturation, hue", flag="--no_colours")
    short: int = option(None, "side of images in evaluation", flag="--short_side", type=positive, metavar="N")
    longest: int = option(None, "the long side at most", flag="--long_side", type=positive, metavar="N")
    hidden: str = option(
        "outside",
        "pixels of classes that are not learned: outside of every mask, as published, like the background; or ignored "
        "by the losses of masks, while the background stays outside",
        choices=("outside", "ignored"),
    )
    logit_scale: float = option(
        100.0,
        "factor of the cosines of queries and words, as published; 0: CLIP's own, where that is another one",
        type=not_negative,
        metavar="X",
    )
    class_weight: float = option(
        1.0,
        "of the losses of classes, and of classes when queries are matched; 1 as published, beside 20 of focal losses "
        "and 1 of dice losses",
        type=not_negative,
        metavar="X",
    )
    ema: float = option(0.0, "decay of a running mean of the weights", type=share, metavar="X")
    seed: int = option(0, "of start weights, order and views", type=count)
    code: str = VERSION

    def __post_init__(self) -> None:
        preset = PRESETS[self.preset]
        usual = {
            "network": preset.network,
            "max_iters": preset.iterations,
            "batch": max(1, preset.batch // (self.ranks * self.accumulate)),
            "crop": preset.crop,
            "short": preset.short,
            "longest": preset.longest,
        }
        for name, value in usual.items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)
        if self.sides is None:
            object.__setattr__(self, "sides", tuple(self.short * tenths // 10 for tenths in range(5, 16)))

    @property
    def published(self) -> Preset:
        """The preset."""
        return PRESETS[self.preset]

    @property
    def sizes(self) -> Sizes:
        """Of the network."""
        return Sizes(len(self.names), self.text_width, logit_scale=self.logit_scale, **NETWORKS[self.network])

    def rate(self, iteration: int) -> float:
        """The learning rate of a 0-based iteration."""
        return polynomial(iteration, self.lr, self.max_iters, 0.9, warmup=self.warmup)

    def record(self) -> dict[str, Any]:
        """All of it, as JSON gives it back."""
        return json.loads(json.dumps(asdict(self)))
