"""The settings of a pretraining, whose fields are the options of scripts/pretrain_segclip.py.

Two runs with equal settings on one machine give the same weights; what cannot change them is not in here. This file
imports nothing heavy: `--help` reads it. Defaults are the published values (Luo et al., ICML 2023, section 4.1).
"""

import json
from dataclasses import asdict, dataclass
from typing import Any

from common.arguments import count, not_negative, option, positive, share
from common.version import VERSION
from training.schedule import warm_cosine

PRECISIONS = ("float32", "bfloat16", "float16")
ATTENTIONS = ("image", "batch")
PATCH_RULES = ("mean", "most")


@dataclass(frozen=True)
class Settings:
    """All settings of a run.

    clip        fingerprint of the weights that it starts from
    activation  of their MLPs
    pairs       images with captions that there are
    data        names of the captions' or shards' files, and of the maps of superpixels
    side        of the square crops, in pixels
    ranks       processes; `batch` is of each
    """

    clip: str
    activation: str
    pairs: int
    data: tuple[str, ...]
    side: int
    ranks: int = 1
    first_stage: int = option(
        0,
        "blocks of the CLIP that see patches; those behind see groups. 0: all but the last 2, published 10 of 12",
        flag="--first_stage_layer",
        type=count,
        metavar="N",
    )
    groups: int = option(8, "learned centres", type=positive, metavar="N")
    masked: bool = option(
        True, "leave out the loss of the image whose patches are left out and drawn again", flag="--no_masked_image"
    )
    superpixels: bool = option(True, "leave out the loss of the superpixels", flag="--no_superpixels")
    attention: str = option(
        "image",
        "what the centres look at: the patches of their image, or, as the published code did, of the whole batch mixed",
        flag="--centres_see",
        choices=ATTENTIONS,
    )
    patch_rule: str = option(
        "mean",
        "the superpixel of a patch: the mean of the numbers of its pixels, as published, or the number of most of them",
        flag="--patch_superpixel",
        choices=PATCH_RULES,
    )
    areas: tuple[float, float] = option(
        (0.5, 1.0),
        "least and greatest share of the image in a crop",
        flag="--crop_areas",
        type=share,
        many=2,
        metavar="X",
    )
    max_words: int = option(32, "tokens of a caption, with its start and end", type=positive, metavar="N")
    precision: str = option("float32", "of the network; published: float32", choices=PRECISIONS)
    epochs: int = option(10, "times that each caption is seen", type=positive, metavar="N")
    max_iters: int = option(
        0, "changes of the weights in place of --epochs; 0: as --epochs says", type=count, metavar="N"
    )
    batch: int = option(96, "pairs that go together, in each process", flag="--batch_size", type=positive, metavar="N")
    accumulate: int = option(
        1, "batches before the weights change; each is contrasted by itself", type=positive, metavar="N"
    )
    lr: float = option(4e-3, "highest rate, of what CLIP does not give", type=not_negative, metavar="X")
    clip_factor: float = option(
        1e-3, "times --lr: the rate of CLIP's own blocks", flag="--clip_lr", type=not_negative, metavar="X"
    )
    warmup: float = option(0.15, "share of the run in which the rate grows", type=share, metavar="X")
    weight_decay: float = option(0.05, "of all but biases", type=not_negative, metavar="X")
    clip_norm: float = option(1.0, "longest gradient", type=not_negative, metavar="X")
    shuffle: int = option(1000, "samples of shards among which the next one is drawn", type=positive, metavar="N")
    seed: int = option(0, "of start weights, order, crops and noise", type=count)
    code: str = VERSION

    @property
    def epoch(self) -> int:
        """Batches of each process in an epoch; what does not fill a batch of all processes is left out."""
        return self.pairs // (self.batch * self.ranks)

    @property
    def iterations(self) -> int:
        """Changes of the weights."""
        return self.max_iters or self.epoch * self.epochs // self.accumulate

    def rate(self, iteration: int) -> float:
        """The learning rate of a 0-based iteration."""
        return warm_cosine(iteration, self.lr, self.iterations, self.warmup)

    def record(self) -> dict[str, Any]:
        """All of it as JSON gives it back."""
        return json.loads(json.dumps(asdict(self)))
