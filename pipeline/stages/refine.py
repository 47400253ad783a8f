"""What refines maps between the model and the mask: `--refine crf,sam` names the steps (docs/methods.md, section 9).

crf   DenseCRF (pipeline/crf)
pamr  pixel-adaptive refinement (pipeline/steps/pamr.py)
sam   masks without classes vote (pipeline/steps/votes.py); they lie in files, as scripts/propose.py writes them
prompts  segment-anything is asked for each part of each class (pipeline/steps/prompts.py)

Imports nothing heavy at its top, so that `--help` is quick.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.arguments import count, option
from common.errors import UserError
from zsseg.proposals.sam import weights_option
from zsseg.proposals.table import PROPOSERS

if TYPE_CHECKING:
    import numpy as np

    from pipeline.steps.regions import Regions

CRF, PAMR, SAM, PROMPTS = STEPS = ("crf", "pamr", "sam", "prompts")
NOTHING = "none"
RULES = ("majority", "max-iou", "max-iou-imp", "max-iou-imp2")  # of pipeline/steps/votes.py
PAMR_PIXELS = 1 << 19  # that PAMR looks at together; with 20 labels 0.9 GB
NO_MASKS = "no mask that could vote"


@dataclass(frozen=True)
class VoteSettings:
    """Which masks vote and how; their help says what they are."""

    votes: str = option(
        "sam",
        "where the masks come from that vote, as of scripts.propose; `--refine crf,sam --votes NAME --help` shows the "
        "options of one way",
        choices=tuple(PROPOSERS),
    )
    rule: str = option(
        "majority",
        "majority: each mask takes its most frequent label, small masks before large ones; max-iou: each class takes "
        "the masks of which more than half is the class (-imp: and its pixels without mask; -imp2: and masks that "
        "cover 85 percent of it)",
        flag="--vote_rule",
        choices=RULES,
    )
    folder: str | None = option(
        None,
        "where the masks are kept, made once an image; not given: the folder `regions` beside the CAM files, or beside "
        "the masks where there are none",
        flag="--vote_dir",
        type=str,
        metavar="DIR",
    )


@dataclass(frozen=True)
class PromptSettings:
    """Which network is asked for parts of classes, and which of its answers are taken; identity is of the weights."""

    weights: str | None = weights_option()
    score: float = option(
        0.2, "least probability that a connected part of a class reaches somewhere", flag="--prompt_score", metavar="X"
    )
    area: int = option(900, "pixels; smaller parts stay as they are", flag="--prompt_area", type=count, metavar="N")
    quality: float = option(
        0.9,
        "masks above this quality, by the network itself, take their part's place",
        flag="--prompt_quality",
        metavar="X",
    )
    identity: str = ""

    def record(self) -> dict[str, Any]:
        """Their part of the record that all masks share."""
        return {"prompts_" + key: value for key, value in asdict(self).items()}


def asked(probabilities: np.ndarray, rgb: np.ndarray, first: int, settings: PromptSettings, device: str) -> np.ndarray:
    """The winning plane (H, W) of probabilities (k, H, W) after the network's answers for an image (H, W, 3) uint8.

    first  planes before it, the background's, get no prompt
    """
    from clip.device import pick_device
    from pipeline.steps.prompts import answered, prompts_of
    from zsseg.proposals import sam

    prompts = prompts_of(probabilities, first, settings.score, settings.area)
    if not len(prompts):
        return probabilities.argmax(axis=0)
    answers = sam.answers(settings.weights, pick_device(device), rgb, prompts.boxes, prompts.points)
    return answered(probabilities, prompts, answers, settings.quality)


@dataclass(frozen=True)
class Votes:
    """The masks that vote, and how.

    folder   of their files, one a photo
    rule     one of RULES
    made_by  the record that the files have in common; empty for a folder of somebody's
    failures  by id, why the masks of an image could not be made
    """

    folder: Path
    rule: str = "majority"
    made_by: Mapping[str, Any] = field(default_factory=dict)
    failures: Mapping[str, str] = field(default_factory=dict)

    def settings(self) -> dict[str, Any]:
        """Their part of the record that all masks share."""
        return {"vote_rule": self.rule, "votes": dict(self.made_by) or "folder"}

    def file(self, image_id: str) -> Path:
        """Raises UserError when there is none."""
        if image_id in self.failures:
            raise UserError(self.failures[image_id])
        from zsseg.proposals.files import find_file

        return find_file(self.folder, image_id)

    def read(self, image_id: str, size: tuple[int, int]) -> Regions:
        """The masks of a photo of (H, W) pixels. Raises UserError for a file that is damaged or of another photo."""
        from zsseg.proposals.files import read_regions

        path = self.file(image_id)
        regions = read_regions(path, least=0)
        if regions.size != size:
            was, now = (f"{height} x {width}" for height, width in (regions.size, size))
            raise UserError(f"{path}: masks of a photo of {was} pixels, this one has {now}; make them of this photo")
        return regions


def moved_by_colours(scores: np.ndarray, rgb: np.ndarray, device: str, at_once: int = PAMR_PIXELS) -> np.ndarray:
    """Scores (k, H, W) float32 after PAMR with the image (H, W, 3) uint8.

    Of images of more than `at_once` pixels in strips of rows, with so many rows around each that nothing changes.
    """
    import numpy as np
    import torch

    from clip.device import pick_device
    from pipeline.steps.pamr import DILATIONS, STEPS, pamr

    (height, width), reach, where = rgb.shape[:2], STEPS * max(DILATIONS), pick_device(device)
    rows = height if height * width <= at_once else max(reach, at_once // width - 2 * reach)
    result = np.empty(scores.shape, np.float32)
    for start in range(0, height, rows):
        stop = min(start + rows, height)
        top, bottom = max(0, start - reach), min(height, stop + reach)
        image = torch.tensor(rgb[top:bottom], device=where).permute(2, 0, 1).float()
        part = torch.from_numpy(np.ascontiguousarray(scores[:, top:bottom])).to(where)
        result[:, start:stop] = pamr(part[None], image[None])[0, :, start - top : stop - top].cpu().numpy()
    return result
