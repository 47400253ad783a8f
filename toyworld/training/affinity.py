"""Blocks for the affinity, put before a trained vision tower: their attention joins patches of the same object.

They leave every token unchanged (values, output projection and MLP are zero), so the features of the tower stay the
same to the bit. Only CLIP-ES, which averages the attention of blocks, uses them. Before the first block a token still
holds the place and the colours of its patch, which show which neighbours belong together.

They do not learn from masks of the generator, but from labels that the method itself makes of images and captions: the
tower's refined CAMs after the CRF (as AffinityNet, Ahn & Kwak 2018). The loss compares them with the transition matrix
that CLIP-ES makes of the attention of all blocks.
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from clip.image import prepare_image
from clip.load import Clip, load_clip
from clip.vision import embed_patches, vision_forward
from pipeline.crf.dense_crf import dense_crf
from pipeline.methods.method import CamSettings
from pipeline.stages.cams import text_set
from pipeline.steps.affinity import mean_attention, refine, transition_matrix
from pipeline.steps.cam import softmax_gradcam
from pipeline.steps.maps import resize_maps
from pipeline.steps.masks import labels_of, with_background
from pipeline.steps.tensors import to_numpy
from toyworld.scenes import Style, draw_scene
from toyworld.spec import CLASSES, SPEC, TRAINING_SEEDS
from toyworld.training.export import write_weights
from toyworld.training.model import HEAD_WIDTH

BLOCKS = 3  # with the tower's five they are the eight that CLIP-ES averages
SIZES = ((192, 192, 1_200), (156, 216, 400), (216, 156, 400))  # height, width, how many
STEPS, BATCH, PEAK_RATE, WARM_UP_STEPS, WEIGHT_DECAY = 600, 24, 1.5e-3, 30, 0.01
REACH = 3.0  # standard deviation, in patches, of how far affinity should reach
BOX_THRESHOLD = 0.4  # of the maps that the labels are made from
_BLOCK = re.compile(r"visual\.transformer\.resblocks\.(\d+)\.(.+)")

Report = Callable[[int, dict[str, float]], None]  # step, losses by name


@dataclass(frozen=True)
class Group:
    """Images of one size, as the blocks see them.

    tokens     (n, 1+N, D) float16, what enters the first block
    attention  (n, N, N) float16, the sum of the tower's own maps, patch to patch
    labels     (n, N, C+1) float16, the share of each label among a patch's pixels
    near       (N, N) a Gaussian of the distance between patches
    """

    tokens: Tensor
    attention: Tensor
    labels: Tensor
    near: Tensor


class AffinityBlock(nn.Module):
    """Queries and keys of a block: tokens (B, 1+N, D) to head-averaged attention between patches (B, N, N)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.ln_1, self.in_proj = nn.LayerNorm(width), nn.Linear(width, 2 * width)
        nn.init.normal_(self.in_proj.weight, std=width**-0.5)
        nn.init.zeros_(self.in_proj.bias)

    def forward(self, tokens: Tensor) -> Tensor:
        projected = self.in_proj(self.ln_1(tokens))
        q, k = projected.view(*tokens.shape[:2], 2, -1, HEAD_WIDTH).permute(2, 0, 3, 1, 4)
        return (q @ k.transpose(-1, -2) * HEAD_WIDTH**-0.5).softmax(-1).mean(1)[:, 1:, 1:]


def add_affinity_blocks(weights: Path, report: Report, steps: int = STEPS, sizes: tuple = SIZES) -> None:
    """Train the blocks for the tower in a weight file of write_weights, and write the file again with them."""
    clip, first, groups = load_clip(str(weights)), 0, []
    for height, width, count in sizes:
        groups.append(_group(clip, height, width, range(first, first + count)))
        first += count
    blocks = fit(groups, steps, report)
    write_weights(weights, with_blocks(torch.load(weights, weights_only=True), blocks))


@torch.no_grad()
def _group(clip: Clip, height: int, width: int, indices: range) -> Group:
    style = Style((height, height), (width, width), avoid_multiples_of=None)
    texts = text_set(clip, SPEC, CamSettings())
    tokens, attention, labels = [], [], []
    for index in indices:
        scene = draw_scene(TRAINING_SEEDS[-1], index, style)
        images = prepare_image(Image.fromarray(scene.image), clip.patch_size)[None]
        entering, grid = embed_patches(clip.visual, images)
        output = vision_forward(clip.visual, images)
        present = sorted(CLASSES.index(name) for name in scene.classes)
        (cam,), _ = softmax_gradcam(
            clip.visual, output.last_input, grid, [present], texts.foreground, texts.background, clip.logit_scale
        )
        refined = refine(transition_matrix(mean_attention(output.attention)), [cam], BOX_THRESHOLD)[0]
        upright = resize_maps(to_numpy(refined), (height, width))
        sharp = labels_of(dense_crf(scene.image, with_background(upright)), np.array(present))
        tokens.append(entering.half())
        attention.append(torch.stack(output.attention).sum(0).half())
        labels.append(shares(sharp, grid))
    return Group(torch.cat(tokens), torch.cat(attention), torch.stack(labels).half(), nearness(*grid))


def shares(labels: np.ndarray, grid: tuple[int, int]) -> Tensor:
    """(H, W) labels, 0 or class index + 1, to the share of each in every patch, (N, C+1) float32."""
    planes = [(labels == label).astype(np.float32) for label in range(len(CLASSES) + 1)]
    small = [cv2.resize(plane, grid[::-1], interpolation=cv2.INTER_AREA).ravel() for plane in planes]
    return torch.from_numpy(np.stack(small, axis=1))


@cache
def nearness(rows: int, columns: int) -> Tensor:
    """(N, N) float32, a Gaussian of the distance between the patches of a grid."""
    places = torch.cartesian_prod(torch.arange(rows), torch.arange(columns)).float()
    return torch.exp(-torch.cdist(places, places).square() / (2 * REACH**2))


def affinity_loss(transitions: Tensor, labels: Tensor, near: Tensor) -> Tensor:
    """Cross-entropy of the rows of a transition matrix against agreement nearby, mean over all rows.

    transitions (B, N, N); labels (B, N, C+1), rows sum to 1; near (N, N).
    """
    agreement = labels @ labels.transpose(1, 2) * near
    wanted = agreement / agreement.sum(-1, keepdim=True).clamp(min=1e-6)
    rows = transitions / transitions.sum(-1, keepdim=True)
    return -(wanted * rows.clamp(min=1e-6).log()).sum(-1).mean()


def fit(groups: list[Group], steps: int, report: Report) -> nn.ModuleList:
    """The blocks whose maps, averaged with the tower's own, give the transition matrix that fits the labels best."""
    torch.manual_seed(TRAINING_SEEDS[-1])
    rng = np.random.default_rng(TRAINING_SEEDS[-1])
    blocks = nn.ModuleList(AffinityBlock(groups[0].tokens.shape[-1]) for _ in range(BLOCKS))
    optimizer = torch.optim.AdamW(blocks.parameters(), weight_decay=WEIGHT_DECAY, fused=True)
    counts = np.array([len(group.tokens) for group in groups], float)
    for step in range(steps):
        warm = min(1, (step + 1) / WARM_UP_STEPS)
        for parameters in optimizer.param_groups:
            parameters["lr"] = PEAK_RATE * warm * (1 + math.cos(math.pi * step / steps)) / 2
        group = groups[rng.choice(len(groups), p=counts / counts.sum())]
        chosen = torch.from_numpy(rng.integers(0, len(group.tokens), min(BATCH, len(group.tokens))))
        tokens, total = group.tokens[chosen].float(), group.attention[chosen].float()
        for block in blocks:
            total = total + block(tokens)
        loss = affinity_loss(transition_matrix(total), group.labels[chosen].float(), group.near)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(blocks.parameters(), 1.0)
        optimizer.step()
        report(step, {"transitions": loss.item()})
    return blocks


def with_blocks(state: dict[str, Tensor], blocks: nn.ModuleList) -> dict[str, Tensor]:
    """An OpenAI state dict with the blocks before the others of the vision tower."""
    result, parts = dict[str, Tensor](), dict[str, Tensor]()
    for name, value in state.items():
        if match := _BLOCK.fullmatch(name):
            parts[match[2]] = value
            name = f"visual.transformer.resblocks.{int(match[1]) + len(blocks)}.{match[2]}"
        result[name] = value
    for index, block in enumerate(blocks):
        learned = {name.replace("in_proj.", "attn.in_proj_"): value for name, value in block.state_dict().items()}
        for part, like in parts.items():
            value = torch.full_like(like, float(part == "ln_2.weight"))
            if part in learned:
                value[: len(learned[part])] = learned[part].to(like.dtype)
            result[f"visual.transformer.resblocks.{index}.{part}"] = value
    return result
