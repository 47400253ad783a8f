"""What SegCLIP learns in a step: image and text against each other, superpixels, and the image drawn again.

Letters: B pairs, G groups, N patches, n of them kept in the second forward, S side in pixels.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segclip.forward import gather, group_features, highest_scale, patch_tokens
from segclip.masked import draw_again, pixel_patches
from segclip.network import SegClip
from segclip.training.losses import contrastive, reconstruction, superpixel_divergence
from segclip.training.settings import Settings
from training.ranks import Ranks

KEPT = 0.25  # of all tokens, the class token among them, in the second forward
CLIP_PARTS = ("layers0.", "clip.transformer.", "ln_final.", "text_projection", "logit_scale")  # they learn slowly
FROZEN = (
    "visual.class_embedding",
    "visual.positional_embedding",
    "visual.conv1.",
    "visual.ln_pre.",
    "clip.token_embedding.",
    "clip.positional_embedding",
)
ONLY_MASKED = ("vis_mae_decoder.", "layers_mae2.", "reconstruct_layer2.")  # parts that the second forward alone uses


@dataclass(frozen=True)
class Noise:
    """All chance of a step.

    groups         (B, G, N) Gumbel noise of the assignment
    masked_groups  (B, G, n) the same in the second forward, in the order of the kept patches
    order          (B, N) int64, all patches in a random order: the first n are kept
    """

    groups: Tensor
    masked_groups: Tensor
    order: Tensor


def gumbel(*shape: int, device: torch.device) -> Tensor:
    """Numbers whose addition to logits makes their largest one a draw from their softmax."""
    return -torch.empty(shape, device=device).exponential_().log()


def kept_patches(patches: int) -> int:
    """How many of N patches the second forward keeps."""
    return int((patches + 1) * KEPT) - 1


def draw_noise(batch: int, groups: int, patches: int, device: torch.device) -> Noise:
    """Fresh noise, by PyTorch's generator."""
    order = torch.rand(batch, patches, device=device).argsort(1)
    kept = kept_patches(patches)
    return Noise(gumbel(batch, groups, patches, device=device), gumbel(batch, groups, kept, device=device), order)


@dataclass(frozen=True)
class Step:
    """A batch as the network gets it: images (B, 3, S, S) normalised, tokens (B, L), ids (B, N), and the noise."""

    images: Tensor
    tokens: Tensor
    ids: Tensor
    noise: Noise


class Pretraining(nn.Module):
    """A network with its losses: called as a whole, so that gradients can be averaged over processes."""

    def __init__(self, network: SegClip, settings: Settings, ranks: Ranks) -> None:
        super().__init__()
        self.network, self.settings, self.ranks = network, settings, ranks
        still = FROZEN + (() if settings.masked else ONLY_MASKED) + (() if settings.clip_factor else CLIP_PARTS)
        for name, parameter in network.named_parameters():
            parameter.requires_grad_(not any(part in name for part in still))

    def forward(self, step: Step) -> dict[str, Tensor]:
        """The sum of the losses as "loss", each by its name, and the scale of the cosines."""
        losses = {name: torch.stack(ways).mean() for name, ways in self.losses(step).items()}
        total = torch.stack(list(losses.values())).sum()
        return {"loss": total, **losses, "scale": highest_scale(self.network.clip.logit_scale)}

    def losses(self, step: Step) -> dict[str, tuple[Tensor, ...]]:
        """Each loss as the terms that it is the mean of: both directions of the first two."""
        clip, mixed = self.network.clip, self.settings.attention == "batch"
        tokens = patch_tokens(clip.visual, step.images)
        gathered = gather(clip.visual.transformer.semantic_layer2, tokens, step.noise.groups, mixed)
        images = F.normalize(group_features(clip.visual, gathered.tokens)[0].float(), dim=-1)
        texts = F.normalize(clip(step.tokens).float(), dim=-1)
        losses: dict[str, tuple[Tensor, ...]] = {}
        with torch.autocast(step.images.device.type, enabled=False):
            all_images, all_texts = self.ranks.gather(images), self.ranks.gather(texts)
            scale, first = highest_scale(clip.logit_scale), self.ranks.index * len(images)
            losses["contrastive"] = contrastive(images, texts, all_images, all_texts, scale, first)
            if self.settings.superpixels:
                losses["superpixels"] = superpixel_divergence(gathered.hard, step.ids)
        if self.settings.masked:
            losses["masked"] = (self._masked(step, mixed),)
        return losses

    def _masked(self, step: Step, mixed: bool) -> Tensor:
        """The loss of the second forward."""
        order, patch = step.noise.order, self.network.clip.visual.conv1.kernel_size[0]
        kept, restore = kept_patches(order.shape[1]), order.argsort(1)
        predicted, _ = draw_again(self.network, step.images, order[:, :kept], restore, step.noise.masked_groups, mixed)
        return reconstruction(predicted, pixel_patches(step.images, patch), (restore >= kept).float())

    @torch.no_grad()
    def cap_scale(self) -> None:
        """Keep exp(logit_scale) at most 100."""
        self.network.clip.logit_scale.clamp_(max=torch.tensor(100.0).log().item())


def rate_and_decay(settings: Settings) -> Callable[[str, nn.Parameter], tuple[float, float]]:
    """The factor of the learning rate and the weight decay of each parameter, by its name.

    What CLIP gave learns slowly, but for the image tower's last parts; names with "bias" are not decayed.
    """

    def kind(name: str, parameter: nn.Parameter) -> tuple[float, float]:
        factor = settings.clip_factor if any(part in name for part in CLIP_PARTS) else 1.0
        return factor, 0.0 if "bias" in name else settings.weight_decay

    return kind
