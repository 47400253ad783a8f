"""The settings of prompt learning, whose fields are the options of scripts/learn_prompts.py.

The defaults are published (Xu et al., ECCV 2022, and its code). This file imports nothing heavy: `--help` reads it.
"""

import json
from dataclasses import asdict, dataclass, field
from typing import Any

from common.arguments import count, not_negative, option, positive
from common.version import VERSION
from training.schedule import held_cosine

PUBLISHED = {"cocostuff": (32, 16000)}  # regions a class and iterations, by data set
OTHERS = (128, 3200)  # as for VOC
LEAST_AREA, RATIOS = 0.08, (3 / 4, 4 / 3)  # of a crop's share of its box, and of its width to its height
CLIP_NORM, MOMENTUM = 0.01, 0.9
FIRST_FACTOR = 0.005  # of the rate, in the first iterations


@dataclass(frozen=True)
class PromptSettings:
    """All settings of a run; None in those of the regions becomes the value of PUBLISHED.

    dataset   whose published numbers are taken
    names     of the classes that are learned from, each with its prompts
    regions   how many there are, before they are balanced
    model, activation  of the CLIP
    start     names the learned prompts that the run starts from; "": random vectors
    """

    dataset: str
    names: tuple[tuple[str, ...], ...]
    regions: int
    model: str
    activation: str
    start: str = ""
    ranks: int = 1
    code: str = field(default=VERSION)
    prefix: int = option(16, "learned vectors before the name", type=count, metavar="N")
    suffix: int = option(0, "learned vectors after it", type=count, metavar="N")
    first_words: str = option(
        "",
        "start from these words, such as `a photo of a`, one vector a token before the name, in place of --prefix "
        "random vectors as published",
        type=str,
        metavar="TEXT",
    )
    per_class: int | None = option(
        None,
        "regions of each class in a round, drawn with replacement from those of a class with more; not given: 128, and "
        "32 of COCO-Stuff",
        type=positive,
        metavar="N",
    )
    max_iters: int | None = option(
        None, "changes of the vectors; not given: 3200, and 16000 for COCO-Stuff", type=positive, metavar="N"
    )
    batch: int = option(32, "regions that go together", flag="--batch_size", type=positive, metavar="N")
    crop: tuple[int, int] = option(
        (244, 224), "HEIGHT and WIDTH of the crops that CLIP sees, as published", type=positive, many=2, metavar="N"
    )
    expand: float = option(
        1.0, "a region's box is enlarged by this factor before it is cropped", type=not_negative, metavar="X"
    )
    flip: bool = option(True, "never mirror", flag="--no_flip")
    lr: float = option(0.02, "learning rate of SGD, then a cosine down to 0", type=not_negative, metavar="X")
    warmup: int = option(100, "first iterations with 1/200 of the rate", type=count, metavar="N")
    weight_decay: float = option(5e-4, "of the vectors", type=not_negative, metavar="X")
    clip_norm: float = option(
        CLIP_NORM,
        "longest gradient; 0: any. The published one is inherited from the segmentation network, and shortens every "
        "gradient by orders of magnitude",
        type=not_negative,
        metavar="X",
    )
    logit_scale: float = option(
        100.0,
        "factor of the cosines in the loss, as published; 0: CLIP's own, where that is another one",
        type=not_negative,
        metavar="X",
    )
    precision: str = option("float32", "of CLIP's towers", choices=("float32", "bfloat16", "float16"))
    seed: int = option(0, "of the first vectors, the order and the crops", type=count, metavar="N")

    def __post_init__(self) -> None:
        per_class, iterations = PUBLISHED.get(self.dataset, OTHERS)
        for name, value in (("per_class", per_class), ("max_iters", iterations)):
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)

    def rate(self, iteration: int) -> float:
        """The learning rate of a 0-based iteration."""
        return held_cosine(iteration, self.lr, self.max_iters or 1, self.warmup, FIRST_FACTOR)

    def record(self) -> dict[str, Any]:
        """All of it as JSON gives it back."""
        return json.loads(json.dumps(asdict(self)))
