"""The frozen MaskCLIP that labels crops while a network learns from them (MaskCLIP+: Zhou et al., 2022, section 3.3).

It looks at the very crop that the network gets, by default without its padding: a CLIP that has never seen large even
areas is led astray by them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from clip.load import Clip
from pipeline.methods.method import CamSettings, TextSet
from pipeline.methods.table import METHODS
from segmentor.augment import IGNORE, NORMALISATIONS


@dataclass(frozen=True)
class Teacher:
    """(B, 3, H, W) images as the network gets them to (B, H, W) int64 labels: the best of those that it may give.

    text           embeddings of the classes that it may give, and, where it may give the background, its prompts
    labels         mask values of these classes
    background     whether it may give the background, label 0; what the classes leave is its score then
    normalisation  of the images; one of NORMALISATIONS
    confidence     pixels whose highest probability is lower get 255
    padding        whether it sees the crops with their padding, as in the published code; else that gets 255
    """

    clip: Clip
    text: TextSet
    labels: Sequence[int]
    settings: CamSettings
    background: bool
    normalisation: str
    confidence: float = 0.0
    padding: bool = False

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        if self.padding:
            return self._labels(images)
        found = torch.full((len(images), *images.shape[-2:]), IGNORE, device=images.device)
        for (height, width), members in by_size(images).items():
            found[members, :height, :width] = self._labels(images[members, :, :height, :width])
        return found

    def _labels(self, images: Tensor) -> Tensor:
        score = METHODS[self.settings.method].scores
        assert score is not None, f"{self.settings.method} is not dense"
        scores = score(self.clip, self._prepared(images), self.text, self.settings)
        return torch.stack([self._labels_of(each, images) for each in scores])

    def _prepared(self, images: Tensor) -> Tensor:
        """Normalised as the method wants them, with whole patches."""
        how = METHODS[self.settings.method].preparation(self.clip, self.settings.options)
        images = renormalised(images, self.normalisation, how.normalisation)
        rows, columns = (-side % self.clip.patch_size for side in images.shape[-2:])
        if not rows and not columns:
            return images
        if how.fit == "pad":
            return F.pad(images, (0, columns, 0, rows))
        size = (images.shape[-2] + rows, images.shape[-1] + columns)
        return F.interpolate(images, size=size, mode="bilinear", align_corners=False)

    def _labels_of(self, scores: Tensor, images: Tensor) -> Tensor:
        """(k, h, w) scores of one of the images to (H, W) labels. One at a time: there may be many classes."""
        maps = F.interpolate(scores[None], size=images.shape[-2:], mode="bilinear", align_corners=False)[0]
        kind = METHODS[self.settings.method].kind(self.settings.options)
        if self.background:
            rest = torch.zeros_like(maps[0]) if kind == "logit" else (1 - maps.sum(dim=0)).clamp(min=0)
            maps = torch.cat([rest[None], maps])
        values = torch.tensor([0, *self.labels] if self.background else list(self.labels), device=maps.device)
        best, places = maps.max(dim=0)
        found = values[places]
        if not self.confidence:
            return found
        share = (best - maps.logsumexp(dim=0)).exp() if kind == "logit" else best / maps.sum(dim=0)
        return found.masked_fill(share < self.confidence, IGNORE)


def by_size(images: Tensor) -> dict[tuple[int, int], list[int]]:
    """Which of (B, 3, H, W) normalised images have how many rows and columns that are no padding; none has no entry.

    Padding is 0 in all channels, which no pixel is: the means of NORMALISATIONS are no whole numbers.
    """
    inside = (images != 0).any(dim=1)
    sizes = torch.stack([inside.any(dim=2).sum(dim=1), inside.any(dim=1).sum(dim=1)], dim=1)
    found: dict[tuple[int, int], list[int]] = {}
    for index, (height, width) in enumerate(sizes.tolist()):
        if height and width:
            found.setdefault((height, width), []).append(index)
    return found


def renormalised(images: Tensor, given: str, wanted: str) -> Tensor:
    """(B, 3, H, W) of one of NORMALISATIONS in another one; the same tensor where they are the same."""
    if given == wanted:
        return images
    (mean, deviation), (other_mean, other_deviation) = (
        [images.new_tensor(values)[:, None, None] for values in NORMALISATIONS[name]] for name in (given, wanted)
    )
    return (images * deviation + (mean - other_mean)) / other_deviation
