"""Step 1 without gradients: scores of each patch for every class (MaskCLIP, Zhou et al., ECCV 2022).

Two variants: the official code's (`maskclip`) and the pip package's (`maskclip-v`). Both stop every token of the last
block from looking at the others, so that it is about its own place; they differ in nearly everything else.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from clip.resnet import ModifiedResNet, pool_alone, pool_every_token, pool_input, resnet_trunk
from clip.transformer import VisionTransformer
from clip.vision import project_alone, run_block, run_block_alone
from pipeline.steps.tensors import computing_in

LAYER_NORM_EPSILON = 1e-6  # in the official code; CLIP was trained with 1e-5
DENIED = -100.0  # the cosine that prompt denoising gives to classes that it rules out
LARGEST = 30000.0  # of a logit; half precision holds up to 65504


@dataclass(frozen=True)
class Patches:
    """Features of patches, the same for ViTs and ResNets.

    features   (B, N, E) in the space of the text embeddings
    keys       (B, N, D) for key smoothing, or None for a variant without it
    attention  one (B, N, N) tensor a block for the affinity; empty for a ResNet, and where no affinity is computed
    """

    features: Tensor
    keys: Tensor | None
    attention: tuple[Tensor, ...]
    grid: tuple[int, int]


@torch.no_grad()
def identity_features(visual: VisionTransformer, last_input: Tensor) -> tuple[Tensor, Tensor]:
    """The official variant's features and keys: the last block with identity attention, then CLIP's own projection.

    last_input  (B, 1+N, D) tokens that enter the last block
    Returns unit features (B, N, E), and keys (B, N, D) for key smoothing.
    """
    block = visual.transformer.resblocks[-1]
    tokens = visual.ln_post(run_block_alone(block, last_input)[:, 1:])
    return F.normalize(tokens @ visual.proj, dim=-1), project_alone(block, last_input, "key")[:, 1:]


@torch.no_grad()
def value_features(visual: VisionTransformer, last_input: Tensor, last_output: Tensor) -> Tensor:
    """The pip package's features (B, N, E): (value + block output) projected. No layer norm, not of unit length.

    last_input, last_output  (B, 1+N, D) tokens that enter and that leave the last block
    """
    values = project_alone(visual.transformer.resblocks[-1], last_input, "value")
    return (values + last_output)[:, 1:] @ visual.proj


@torch.no_grad()
def identity_features_resnet(visual: ModifiedResNet, cells: Tensor) -> tuple[Tensor, Tensor]:
    """`identity_features` of a ResNet: the pooling's values, without positions; keys are as wide as the cells.

    cells  (B, N, C) of clip.resnet.resnet_trunk
    """
    pool = visual.attnpool
    return F.normalize(pool_alone(pool, cells), dim=-1), pool.k_proj(cells)


@torch.no_grad()
def value_features_resnet(visual: ModifiedResNet, cells: Tensor, grid: tuple[int, int]) -> Tensor:
    """`value_features` of a ResNet: value + half of what the pooling gives with the cell as its query."""
    tokens = pool_input(visual.attnpool, cells, grid)
    return (pool_alone(visual.attnpool, tokens) + pool_every_token(visual.attnpool, tokens) / 2)[:, 1:]


def resnet_cells(visual: ModifiedResNet, images: Tensor, precision: str) -> tuple[Tensor, tuple[int, int]]:
    """(B, N, C) float32 cells of a ResNet's last stage, and their grid (h, w)."""
    with computing_in(precision, images.device):
        cells, grid = resnet_trunk(visual, images)
    return cells.float(), grid


@torch.no_grad()
def last_block(visual: VisionTransformer, last_input: Tensor) -> tuple[Tensor, Tensor]:
    """The last block as it is: tokens (B, 1+N, D), and its head-averaged attention between patches (B, N, N)."""
    tokens, attention = run_block(visual.transformer.resblocks[-1], last_input, need_attention=True)
    assert attention is not None
    return tokens, attention[:, 1:, 1:]


def denoise(cosines: Tensor, scale: Tensor, threshold: float) -> Tensor:
    """Prompt denoising: DENIED for the classes of (N, C) whose probability stays below `threshold` in all positions.

    As published, an image may lose all its classes; their scores are then equal.
    """
    probable = (scale * cosines).softmax(dim=-1).amax(dim=0) >= threshold
    return torch.where(probable, cosines, DENIED)


def smooth(cosines: Tensor, keys: Tensor, scale: Tensor, threshold: float, norm: str) -> Tensor:
    """Key smoothing: (N, C) scores to probabilities, those of unsure positions gathered from similar ones.

    keys  (N, D)
    norm  "position": keys are normalised per channel over the positions; "channel": each key by itself
    What is gathered is not a distribution any more: the weights K K^T are neither positive nor of sum one.
    """
    probabilities = (scale * cosines).softmax(dim=-1)
    similar = F.normalize(keys, dim=0 if norm == "position" else 1)
    unsure = probabilities.amax(dim=-1, keepdim=True) < threshold
    return torch.where(unsure, similar @ (similar.T @ probabilities), probabilities)


def to_distribution(scores: Tensor, otherwise: Tensor) -> Tensor:
    """(N, C) scores to sum 1 in every position, what is negative taken as 0.

    otherwise  (N, C) what a position gets that has nothing positive, such as one whose key is zero
    """
    positive = scores.clamp(min=0)
    total = positive.sum(dim=-1, keepdim=True)
    return torch.where(total > 0, positive / total, otherwise)


def against_background(logits: Tensor, count: int) -> Tensor:
    """Logits (N, k+b) of k classes and b background prompts to (N, k): relative to the background, which is at 0.

    A softmax over [0, result] is then the softmax over all k+b with the background prompts' shares added up. With
    b = 0 they are relative to the best class: logits stand for the same whatever is added to all of a position, and
    half precision, in which files keep them, is fine near 0 only.
    """
    classes, background = logits[:, :count], logits[:, count:]
    if background.shape[1]:
        classes = classes - background.logsumexp(dim=-1, keepdim=True)
    elif count:
        classes = classes - classes.amax(dim=-1, keepdim=True)
    return classes.clamp(-LARGEST, LARGEST)


def spread(transition: Tensor, maps: Tensor) -> Tensor:
    """Maps (k, h, w) averaged along the affinity T (N, N), whose rows, of sum near one, are divided by their sums."""
    weights = transition / transition.sum(dim=-1, keepdim=True)
    return (maps.flatten(1) @ weights.T).view_as(maps)
