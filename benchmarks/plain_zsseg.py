"""CLIP on regions as zsseg's reference does it, a step after the other: what our region classifier is compared with.

One image at a time: a mask of the whole image for every label up to the largest, every region cropped, filled and
resized by itself, then all regions of the image through CLIP, the sum of all masks times their probabilities, scaled to
the image's size (Xu et al., ECCV 2022; docs/methods.md, section 6).
"""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from clip.load import Clip
from common.images import read_image

MEAN = torch.tensor((0.48145466, 0.4578275, 0.40821073)).view(3, 1, 1) * 255
STD = torch.tensor((0.26862954, 0.26130258, 0.27577711)).view(3, 1, 1) * 255
SIDE = 224


def one_hot(labels: np.ndarray) -> Tensor:
    """(Q, H, W) float32: a mask for every label from 0 to the largest, some of them empty."""
    return torch.stack([torch.from_numpy(labels == label) for label in range(int(labels.max()) + 1)]).float()


def crops_of(image: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    """Of an image (3, H, W) from 0 to 255: which masks have a pixel (Q,), and their squares (Q', 3, SIDE, SIDE)."""
    binary = masks > 0.5
    valid = binary.sum(dim=(-1, -2)) > 0
    squares = []
    for mask in binary[valid]:
        rows, columns = torch.where(mask.any(dim=1))[0], torch.where(mask.any(dim=0))[0]
        top, bottom, left, right = int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1
        inside = mask[None, top:bottom, left:right].float()
        crop = image[:, top:bottom, left:right] * inside + (1 - inside) * MEAN
        crop = (crop - MEAN) / STD
        squares.append(F.interpolate(crop[None], (SIDE, SIDE), mode="bicubic", align_corners=False)[0])
    return valid, torch.stack(squares)


@torch.no_grad()
def encode(clip: Clip, images: Tensor) -> Tensor:
    """(B, 3, SIDE, SIDE) to (B, E) unit features; tokens are (T, B, D)."""
    visual = clip.visual
    patches = visual.conv1(images)
    height, width = patches.shape[-2:]
    patches = patches.flatten(2).permute(0, 2, 1)
    cls = visual.class_embedding + torch.zeros(len(patches), 1, patches.shape[-1])
    learned, side = visual.positional_embedding, int((len(visual.positional_embedding) - 1) ** 0.5)
    grid = learned[1:].reshape(1, side, side, -1).permute(0, 3, 1, 2)
    grid = F.interpolate(grid, (height, width), mode="bicubic", align_corners=False)
    position = torch.cat([learned[:1], grid[0].flatten(1).T])
    tokens = visual.ln_pre(torch.cat([cls, patches], dim=1) + position).permute(1, 0, 2)
    for block in visual.transformer.resblocks:
        layer, normed = block.attn, block.ln_1(tokens)
        mixed = F.multi_head_attention_forward(
            normed, normed, normed, layer.embed_dim, layer.num_heads, layer.in_proj_weight, layer.in_proj_bias,
            None, None, False, 0.0, layer.out_proj.weight, layer.out_proj.bias, training=False, need_weights=False,
        )[0]  # fmt: skip
        tokens = tokens + mixed
        tokens = tokens + block.mlp(block.ln_2(tokens))
    features = visual.ln_post(tokens.permute(1, 0, 2)[:, 0]) @ visual.proj
    return features / features.norm(dim=-1, keepdim=True)


def classified(clip: Clip, text: Tensor, image: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    """Which masks have a pixel (Q,), and the probabilities (Q', K) of those."""
    valid, squares = crops_of(image, masks)
    return valid, (100 * encode(clip, squares) @ text.T).softmax(dim=-1)


def labelled(clip: Clip, text: Tensor, photo: Path, proposals: Path, out: Path) -> np.ndarray:
    """The best class of every pixel (H, W) uint8, from the files of a photo and its label map; written to a file."""
    image = torch.from_numpy(np.asarray(read_image(photo)).copy()).permute(2, 0, 1).float()
    masks = one_hot(np.load(proposals, allow_pickle=False))
    valid, probabilities = classified(clip, text, image, masks)
    scores = torch.einsum("qc,qhw->chw", probabilities, masks[valid])
    scores = F.interpolate(scores[None], image.shape[-2:], mode="bilinear", align_corners=False)[0]
    labels = scores.argmax(dim=0).to(torch.uint8).numpy()
    np.save(out, labels)
    return labels
