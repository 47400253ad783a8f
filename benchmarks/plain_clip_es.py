"""CLIP-ES as the reference code does it, a step after the other: what our CAM stage is compared with.

One image at a time; attention maps of every block; for every class a pass of its own through the last block, forward
and backward, with gradients for the weights too; affinity on the CPU, computed again for every class; maps scaled to
the image's size and written so (CLIP-ES: Lin et al., CVPR 2023; docs/methods.md). Where the reference rounds the
resized positional embedding to float16, this does not.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from clip.load import Clip, load_clip
from clip.text import encode_prompts, fill_template
from clip.transformer import Block, VisionTransformer
from dataset.spec import DatasetSpec

MEAN = np.array((0.48145466, 0.4578275, 0.40821073), np.float32)
STD = np.array((0.26862954, 0.26130258, 0.27577711), np.float32)
AVERAGED_BLOCKS = 8


@dataclass(frozen=True)
class PlainModel:
    """A CLIP whose weights ask for gradients, as a freshly loaded one does, and its text embeddings (K, E), (b, E)."""

    clip: Clip
    foreground: Tensor
    background: Tensor
    box_threshold: float


@dataclass(frozen=True)
class PlainMaps:
    """keys (k,) 0-based classes; highres and attn_highres (k, H, W) float32, before and after the affinity."""

    keys: np.ndarray
    highres: np.ndarray
    attn_highres: np.ndarray


def load_plain(weights: Path, spec: DatasetSpec, device: str | torch.device = "cpu") -> PlainModel:
    clip = load_clip(str(weights), device=device)
    groups = [*spec.prompts, *((prompt,) for prompt in spec.background_prompts)]
    embeddings = encode_prompts(clip, fill_template(spec.template, groups))
    clip.model.requires_grad_(True)
    return PlainModel(clip, embeddings[: len(spec.prompts)], embeddings[len(spec.prompts) :], spec.box_threshold)


def plain_maps(model: PlainModel, image: Image.Image, labels: Sequence[int]) -> PlainMaps:
    """The maps of one image, class by class."""
    visual, size = model.clip.visual, (image.height, image.width)
    pixels = prepare(image, model.clip.patch_size).to(model.clip.device)
    tokens, attention, grid = all_blocks_but_the_last(visual, pixels)
    text = torch.cat([model.foreground[list(labels)], model.background])
    highres, refined = [], []
    for index in range(len(labels)):
        cam, last_attention = gradcam(model, tokens, text, index, grid)
        mean = torch.stack([*attention, last_attention][-AVERAGED_BLOCKS:])[:, 0, 1:, 1:].mean(dim=0).cpu()
        highres.append(cv2.resize(cam, size[::-1]))
        refined.append(cv2.resize(refine(mean, cam, model.box_threshold), size[::-1]))
    maps = (np.stack(maps) if maps else np.zeros((0, *size), np.float32) for maps in (highres, refined))
    return PlainMaps(np.array(labels, np.int64), *maps)


def save(path: Path, maps: PlainMaps) -> None:
    """What the reference keeps of an image: classes and refined maps in full size, float16, not compressed."""
    np.savez(path, keys=maps.keys, attn_highres=maps.attn_highres.astype(np.float16))


def prepare(image: Image.Image, patch: int) -> Tensor:
    """(1, 3, h*p, w*p) float32, normalised."""
    width, height = (-(-side // patch) * patch for side in image.size)
    pixels = np.asarray(image.resize((width, height), Image.Resampling.BICUBIC), np.float32) / 255
    return torch.from_numpy(((pixels - MEAN) / STD).transpose(2, 0, 1).copy())[None]


# --- the transformer; tokens are (T, 1, D), as in the reference, with T = 1 + h*w -----------------


@torch.no_grad()
def all_blocks_but_the_last(visual: VisionTransformer, pixels: Tensor) -> tuple[Tensor, list[Tensor], tuple[int, int]]:
    """Tokens that enter the last block, attention maps (1, T, T) of the blocks before it, and (h, w)."""
    patches = visual.conv1(pixels)  # (1, D, h, w)
    grid = (patches.shape[2], patches.shape[3])
    tokens = torch.cat([visual.class_embedding[None, None], patches.flatten(2).transpose(1, 2)], dim=1)
    tokens = visual.ln_pre(tokens + position(visual.positional_embedding, grid)).transpose(0, 1)
    maps = []
    for block in visual.transformer.resblocks[:-1]:
        tokens, attention = run_block(block, tokens, block.ln_1(tokens))
        maps.append(attention)
    return tokens, maps, grid


def position(learned: Tensor, grid: tuple[int, int]) -> Tensor:
    """(T, D): the grid's part resized to (h, w)."""
    side = int((len(learned) - 1) ** 0.5)
    square = learned[1:].view(side, side, -1).permute(2, 0, 1)[None]  # (1, D, g, g)
    resized = F.interpolate(square, grid, mode="bilinear", align_corners=False)
    return torch.cat([learned[:1], resized[0].flatten(1).T])


def run_block(block: Block, tokens: Tensor, normed: Tensor) -> tuple[Tensor, Tensor]:
    """Output tokens and the attention map (1, T, T), averaged over the heads."""
    layer = block.attn
    mixed, attention = F.multi_head_attention_forward(
        normed, normed, normed, layer.embed_dim, layer.num_heads, layer.in_proj_weight, layer.in_proj_bias,
        None, None, False, 0.0, layer.out_proj.weight, layer.out_proj.bias, training=False, need_weights=True,
    )  # fmt: skip
    tokens = tokens + mixed
    assert attention is not None
    return tokens + block.mlp(block.ln_2(tokens)), attention


# --- Grad-CAM (section 3.1) -----------------------------------------------------------------------


def gradcam(
    model: PlainModel, tokens: Tensor, text: Tensor, index: int, grid: tuple[int, int]
) -> tuple[np.ndarray, Tensor]:
    """The CAM (h, w) of the text with that index, and the last block's attention map (1, T, T)."""
    visual, block = model.clip.visual, model.clip.visual.transformer.resblocks[-1]
    model.clip.model.zero_grad()
    activation = block.ln_1(tokens)  # (T, 1, D)
    activation.retain_grad()
    output, attention = run_block(block, tokens, activation)
    feature = (visual.ln_post(output.transpose(0, 1)[:, 1:]).mean(dim=1) @ visual.proj)[0]
    logits = model.clip.logit_scale * text @ (feature / feature.norm())
    logits.softmax(dim=0)[index].backward()
    assert activation.grad is not None
    features = activation.detach()[1:, 0].cpu().numpy()  # (N, D)
    weights = activation.grad[1:, 0].cpu().numpy().mean(axis=0)  # (D,)
    cam = np.maximum((weights * features).sum(axis=1), 0).reshape(grid)
    return normalised(normalised(cam)), attention.detach()


def normalised(values: np.ndarray) -> np.ndarray:
    shifted = values - values.min()
    return shifted / (1e-7 + shifted.max())


# --- affinity (section 3.2) -----------------------------------------------------------------------


def refine(attention: Tensor, cam: np.ndarray, threshold: float) -> np.ndarray:
    """The CAM (h, w) spread along the affinity of attention (N, N) inside its boxes."""
    spread = (transition(attention) * torch.from_numpy(box_mask(cam, threshold)).view(1, -1)) @ torch.from_numpy(
        cam
    ).view(-1, 1)
    return normalised(spread.view(cam.shape).numpy())


def transition(attention: Tensor) -> Tensor:
    matrix = attention
    for _ in range(3):
        matrix = matrix / matrix.sum(dim=0, keepdim=True)
        matrix = matrix / matrix.sum(dim=1, keepdim=True)
    matrix = (matrix + matrix.T) / 2
    return matrix @ matrix


def box_mask(cam: np.ndarray, threshold: float) -> np.ndarray:
    """(h, w) float32: 1 inside the boxes of what stands out."""
    levels = (cam * 255).astype(np.uint8)
    _, binary = cv2.threshold(levels, int(threshold * levels.max()), 255, cv2.THRESH_BINARY)
    contours, _ = cv2.findContours(binary, cv2.RETR_TREE, cv2.CHAIN_APPROX_SIMPLE)
    mask = np.zeros(cam.shape, np.float32)
    height, width = cam.shape
    for contour in contours:
        left, top, across, down = cv2.boundingRect(contour)
        right, bottom = min(left + across, width - 1), min(top + down, height - 1)
        mask[top:bottom, left:right] = 1
    return mask
