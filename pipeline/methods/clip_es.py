"""CLIP-ES (Lin et al., CVPR 2023): softmax Grad-CAM, then class-aware attention affinity."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from common.arguments import option
from pipeline.methods.dino import DINO, identity_of, network_of
from pipeline.methods.method import CamSettings, LateSteps, Method, TextSet

if TYPE_CHECKING:
    from torch import Tensor

    from clip.image import Preparation
    from clip.load import Clip
    from clip.templates import Words
    from dataset.spec import DatasetSpec
    from pipeline.methods.method import MapPair, Seen


BOX_THRESHOLD = 0.4  # published for VOC (paper, section 4.1); each data set's spec has its own


@dataclass(frozen=True)
class ClipEsSettings:
    """CLIP-ES's own settings (paper, section 3.2).

    affinity  None once it is complete, where it is CLIP's: records of files say nothing of it then
    identity  of DINO's weights
    """

    box_threshold: float | None = option(None, "share of a CAM's maximum that enters a box; not given: the data set's")
    affinity: str | None = option(
        "clip",
        "which patches belong together: by CLIP's attention, by DINO's features, or by both",
        choices=("clip", "dino", "both"),
    )
    dino: str | None = DINO
    identity: str | None = None


def look(
    clip: Clip, images: Tensor, labels: Sequence[Sequence[int]], text: TextSet, settings: CamSettings
) -> list[Seen]:
    """Of each image of a batch (B, 3, h*p, w*p) the transition matrix (N, N) and CAMs (k_i, h, w) in [0, 1]."""
    from pipeline.steps.affinity import ATTENTION_BLOCKS, mean_attention, transition_matrix
    from pipeline.steps.cam import softmax_gradcam
    from pipeline.steps.other_network import alike, both
    from pipeline.steps.trunk import run_trunk

    trunk = run_trunk(clip.visual, images, "bilinear", ATTENTION_BLOCKS, settings.precision, settings.compile)
    cams, attention = softmax_gradcam(
        clip.visual,
        trunk.last_input.float(),
        trunk.grid,
        labels,
        text.foreground,
        text.background,
        clip.logit_scale,
    )
    transitions = transition_matrix(mean_attention([*trunk.attention, attention]))
    options = settings.options or ClipEsSettings()
    if options.affinity not in (None, "clip"):
        network = network_of(options.dino, images.device)
        found = alike(network.features(images, trunk.grid, settings.precision))
        transitions = found if options.affinity == "dino" else both(transitions, found)
    return list(zip(transitions, cams))


def finish(seen: Sequence[Seen], settings: CamSettings) -> list[MapPair]:
    """B pairs of (k_i, h, w) float32 maps in [0, 1], before and after the affinity."""
    from pipeline.steps.affinity import refine

    transitions, cams = [one[0] for one in seen], [one[1] for one in seen]
    options = settings.options or ClipEsSettings()
    threshold = BOX_THRESHOLD if options.box_threshold is None else options.box_threshold
    return list(zip(cams, refine(transitions, cams, threshold)))


def complete(clip: Clip, spec: DatasetSpec, settings: ClipEsSettings) -> ClipEsSettings:
    """Raises UserError for DINO without `affinity` that reads it, and for an affinity whose network is not there."""
    from common.errors import UserError

    if settings.affinity in (None, "clip"):
        if settings.dino is not None:
            raise UserError(f"--dino {settings.dino}: only read with --affinity dino or --affinity both; pass one")
        settings = replace(settings, affinity=None)
    else:
        network_of(settings.dino, clip.device)
        settings = replace(settings, identity=identity_of(settings.dino))
    return replace(settings, box_threshold=spec.box_threshold) if settings.box_threshold is None else settings


def words(spec: DatasetSpec, settings: ClipEsSettings) -> Words:
    """Every class and background word in the data set's one sentence (paper, section 3.1)."""
    from clip.templates import Words

    return Words([*spec.prompts, *((word,) for word in spec.background_prompts)], (spec.template,))


def preparation(clip: Clip, settings: ClipEsSettings) -> Preparation:
    """Images are stretched to whole patches."""
    from clip.image import AS_CLIP_ES

    return AS_CLIP_ES


LATE = LateSteps(look, finish, ("box_threshold",))
METHOD = Method(
    LATE.maps,
    ClipEsSettings,
    complete,
    words,
    preparation,
    kind=lambda settings: "cam",
    late=LATE,
)
