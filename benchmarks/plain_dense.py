"""The dense methods of docs/methods.md, section 8, transcribed plainly: one image, one window after the other.

Written from the formulas, without the product's steps, but for PAMR and ResCLIP's map of equal labels, which have
tests of their own. `state` holds a CLIP's weights in OpenAI's names. T tokens with the class token first, D width.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import ceil
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.plain_clip_es import box_mask, transition
from pipeline.steps.residual_attention import label_map

State = dict[str, Tensor]
MEAN, STD = (122.7709383, 116.7460125, 104.09373615), (68.5005327, 66.6321579, 70.32316305)  # of 0 to 255, RGB
HEAD = 64


@dataclass(frozen=True)
class Constants:
    """A method's constants on a data set; `more`: ResCLIP's mixing, by name."""

    short_side: int = 336
    window: int = 224
    stride: int = 112
    scale: float = 40.0
    prob_threshold: float = 0.0
    area_threshold: float = 0.0
    pamr: int = 0
    std: float = 5.0
    more: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Window:
    """A window (3, h, w) of whole patches, the tokens (T, D) that enter each block, the grid, and the words."""

    image: Tensor
    entering: list[Tensor]
    grid: tuple[int, int]
    texts: Tensor
    owners: Sequence[int]
    constants: Constants


def norm(state: State, name: str, x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"], 1e-5)


def as_deep(state: State, number: int, highest: int) -> int:
    """The block in place of a published one of twelve, by the highest number that the method reads."""
    count = depth(state)
    return number if highest < count else min(int(number * count / 12 + 0.5), count - 1)


def linear(state: State, name: str, x: Tensor) -> Tensor:
    return F.linear(x, state[f"{name}.weight"], state[f"{name}.bias"])


def block_name(number: int) -> str:
    """Blocks count from 1."""
    return f"visual.transformer.resblocks.{number - 1}"


def depth(state: State) -> int:
    return sum(name.endswith(".ln_1.weight") and name.startswith("visual.") for name in state)


def mlp(state: State, name: str, x: Tensor) -> Tensor:
    hidden = linear(state, f"{name}.mlp.c_fc", norm(state, f"{name}.ln_2", x))
    return linear(state, f"{name}.mlp.c_proj", hidden * torch.sigmoid(1.702 * hidden))


def block(state: State, number: int, x: Tensor) -> Tensor:
    name = block_name(number)
    normed = norm(state, f"{name}.ln_1", x)[:, None]
    mixed, _ = F.multi_head_attention_forward(
        normed, normed, normed, x.shape[-1], x.shape[-1] // HEAD, state[f"{name}.attn.in_proj_weight"],
        state[f"{name}.attn.in_proj_bias"], None, None, False, 0.0, state[f"{name}.attn.out_proj.weight"],
        state[f"{name}.attn.out_proj.bias"], training=False, need_weights=False,
    )  # fmt: skip
    x = x + mixed[:, 0]
    return x + mlp(state, name, x)


def entering_blocks(state: State, image: Tensor, resample: str = "bicubic", antialias: bool = False) -> list[Tensor]:
    """What enters each block (T, D), of an image (3, h, w)."""
    kernel, learned = state["visual.conv1.weight"], state["visual.positional_embedding"]
    patches = F.conv2d(image[None], kernel, stride=kernel.shape[-1])[0]
    side = round((len(learned) - 1) ** 0.5)
    places = learned[1:].T.reshape(1, -1, side, side)
    if patches.shape[1:] != (side, side):
        places = F.interpolate(places, size=patches.shape[1:], mode=resample, align_corners=False, antialias=antialias)
    tokens = torch.cat([state["visual.class_embedding"][None], patches.flatten(1).T])
    x = norm(state, "visual.ln_pre", tokens + torch.cat([learned[:1], places[0].flatten(1).T]))
    found = [x]
    for number in range(1, depth(state)):
        found.append(block(state, number, found[-1]))
    return found


def heads(state: State, number: int, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values (H, T, d) of tokens (T, D) that enter a block."""
    name = block_name(number)
    projected = F.linear(
        norm(state, f"{name}.ln_1", x), state[f"{name}.attn.in_proj_weight"], state[f"{name}.attn.in_proj_bias"]
    )
    q, k, v = projected.chunk(3, dim=-1)
    return tuple(part.reshape(len(x), -1, HEAD).transpose(0, 1) for part in (q, k, v))  # type: ignore[return-value]


def gathered(state: State, number: int, attention: Tensor, values: Tensor) -> Tensor:
    """o(A v), (T, D)."""
    return linear(state, f"{block_name(number)}.attn.out_proj", (attention @ values).transpose(0, 1).flatten(1))


def own(z: Tensor, other: Tensor | None = None) -> Tensor:
    """Scores s z z^T."""
    return HEAD**-0.5 * z @ (z if other is None else other).transpose(1, 2)


def gaussian(grid: tuple[int, int], std: float) -> Tensor:
    """NACLIP's window (T, T)."""
    height, width = grid
    place = torch.stack([torch.arange(height).repeat_interleave(width), torch.arange(width).repeat(height)], dim=1)
    apart = ((place[:, None] - place[None]) ** 2).sum(dim=-1)
    found = torch.zeros(height * width + 1, height * width + 1)
    found[1:, 1:] = torch.exp(-apart / (2 * std**2))
    return found


def sclip(state: State, window: Window) -> Tensor:
    number, x = depth(state), window.entering[-1]
    q, k, v = heads(state, number, x)
    u = x + gathered(state, number, own(q).softmax(-1) + own(k).softmax(-1), v)
    return (u + mlp(state, block_name(number), u))[1:]


def clearclip(state: State, window: Window) -> Tensor:
    number = depth(state)
    q, _, v = heads(state, number, window.entering[-1])
    return gathered(state, number, own(q).softmax(-1), v)[1:]


def naclip(state: State, window: Window) -> Tensor:
    number = depth(state)
    _, k, v = heads(state, number, window.entering[-1])
    return gathered(state, number, (own(k) + gaussian(window.grid, window.constants.std)).softmax(-1), v)[1:]


def pamr(scores: Tensor, image: Tensor, steps: int = 10) -> Tensor:
    """(C, H, W) scores, each a mean of 16 neighbours', all of them gathered by one convolution a dilation."""
    gather = torch.eye(9)[[0, 1, 2, 3, 5, 6, 7, 8]].view(8, 1, 3, 3)

    def neighbours(maps: Tensor) -> Tensor:
        around = [
            F.conv2d(F.pad(maps[:, None], [step] * 4, mode="replicate"), gather, dilation=step) for step in (8, 16)
        ]
        return torch.cat(around, dim=1)  # (C, 16, H, W)

    centre, around = image[:, None], neighbours(image)
    spread = torch.cat([around[:, :8], centre, around[:, 8:], centre], dim=1).std(dim=1, keepdim=True)
    weights = (-(around - centre).abs() / (1e-8 + 0.1 * spread)).mean(dim=0).softmax(dim=0)
    for _ in range(steps):
        scores = (neighbours(scores) * weights).sum(dim=1)
    return scores


def first_labels(window: Window, features: Tensor, threshold: float) -> Tensor:
    """The most frequent class of each patch's pixels (h, w), by features (N, E) of patches; 0 where unsure."""
    cosines = (features / features.norm(dim=-1, keepdim=True) @ window.texts.T).T.unflatten(1, window.grid)
    maps = F.interpolate(cosines[None], size=window.image.shape[1:], mode="bilinear", align_corners=False)[0]
    best, labels = (window.constants.scale * pamr(maps, window.image)).softmax(dim=0).max(dim=0)
    labels = torch.tensor(list(window.owners))[labels]
    labels[best < threshold] = 0
    patch = window.image.shape[-1] // window.grid[1]
    cells = F.unfold(labels[None, None].float(), patch, stride=patch)[0].long()  # (patch * patch, N)
    return torch.stack([torch.bincount(cell).argmax() for cell in cells.unbind(dim=1)]).view(window.grid)


def resclip(state: State, window: Window) -> Tensor:
    number, mixing = depth(state), window.constants.more
    (t1, l1), (t2, l2) = mixing["rcs"], mixing["sfr"]
    _, k, v = heads(state, number, window.entering[-1])
    middles, earlier = {as_deep(state, middle, 9) for middle in (6, 7, 8, 9)}, torch.zeros(())
    for middle in middles:
        query, key, _ = heads(state, middle, window.entering[middle - 1])
        earlier = earlier + own(query, key).softmax(-1) / len(middles)
    near = gaussian(window.grid, window.constants.std)

    def mixed(scores: Tensor) -> Tensor:
        return gathered(state, number, t1 * ((1 - l1) * (scores + near).softmax(-1) + l1 * earlier), v)[1:]

    first = projected(state, mixed(own(k)))
    same = F.pad(label_map(first_labels(window, first, mixing["first_threshold"])), (1, 0, 1, 0))
    return mixed(t2 * ((1 - l2) * own(k) + l2 * same))


def similarity(x: Tensor) -> Tensor:
    unit = x / x.norm(dim=-1, keepdim=True)
    return unit @ unit.T


def aggregated(similar: Tensor, x: Tensor) -> Tensor:
    kept = similar * (similar >= 0.4)
    return kept @ x / (kept.sum(dim=1, keepdim=True) + 1e-6)


def repaired(x: Tensor, wrong: Sequence[int], grid: tuple[int, int]) -> Tensor:
    result, width = x.clone(), grid[1]
    for place in wrong:
        row, column = divmod(place, width)
        around = [
            r * width + c
            for r in range(max(row - 1, 0), min(row + 2, grid[0]))
            for c in range(max(column - 1, 0), min(column + 2, width))
            if r * width + c not in wrong
        ]
        if around:
            result[place] = x[around].mean(dim=0)
    return result


def local_outliers(state: State, window: Window) -> list[int]:
    """SC-CLIP's: local outlier factor of squared distances above its 95 % quantile."""
    patches = window.entering[-1][1:]
    squared = ((patches[:, None] - patches[None]) ** 2).sum(dim=-1)
    count = min(30, len(patches) - 1)
    order = squared.argsort(dim=1)[:, 1 : count + 1]
    reach = squared.gather(1, order)[:, -1]
    factor = reach * (1 / reach)[order].mean(dim=1)
    return (factor > torch.quantile(factor, 0.95)).nonzero()[:, 0].tolist()


def looked_at(state: State, window: Window) -> list[int]:
    """SFP's: tokens that the class token looks at more than they look at themselves, the ten most."""
    number = depth(state) - 1
    q, k, _ = heads(state, number, window.entering[number - 1])
    attention = own(q, k).softmax(-1).mean(dim=0)
    found = [place for place in range(len(attention) - 1) if attention[0, place + 1] > attention[place + 1, place + 1]]
    return sorted(found, key=lambda place: -float(attention[0, place + 1]))[:10]


def calibrated(state: State, window: Window, wrong: list[int], with_queries: bool) -> Tensor:
    number, after = depth(state), window.entering  # after[b] leaves block b
    early, middle, late = (as_deep(state, published, 10) for published in (4, 9, 10))
    similar = similarity(repaired(after[middle][1:], wrong, window.grid))
    x = aggregated(similar, repaired(after[-1][1:], wrong, window.grid))
    sharp = 3 * (similar - similar.mean())
    by_middle = sharp.masked_fill(sharp < 0, float("-inf")).softmax(-1)
    summed, found = sum(after[early : late + 1]), torch.zeros_like(x)
    for patches, class_token in ((x, after[-1][0]), (summed[1:], summed[0])):  # type: ignore[index]
        q, k, v = heads(state, number, patches)
        parts = [own(k).softmax(-1), by_middle] + ([own(q).softmax(-1)] if with_queries else [])
        y = gathered(state, number, torch.stack(torch.broadcast_tensors(*parts)).mean(dim=0), v) + 0.3 * class_token
        found = found + aggregated(similarity(after[early][1:]), y)
    return found


def sc_clip(state: State, window: Window) -> Tensor:
    return calibrated(state, window, local_outliers(state, window), False)


def sfp(state: State, window: Window) -> Tensor:
    return calibrated(state, window, looked_at(state, window), True)


def gem(state: State, window: Window) -> Tensor:
    last = depth(state)
    first = last - 5 if last > 6 else last - max(1, last // 2) + 1
    path = window.entering[first - 1]
    for number in range(first, last + 1):
        x = window.entering[number - 1]
        parts = heads(state, number, x)
        t = HEAD**-0.5 * norm(state, f"{block_name(number)}.ln_1", x).norm(dim=-1).mean()
        mean = torch.zeros(())
        for z in parts:
            z = F.normalize(z, dim=-1)
            z = F.normalize((t * z @ z.transpose(1, 2)).softmax(-1) @ z, dim=-1)
            mean = mean + (t * z @ z.transpose(1, 2)).softmax(-1) @ parts[2] / 3
        path = path + linear(state, f"{block_name(number)}.attn.out_proj", mean.transpose(0, 1).flatten(1))
    return path[1:]


def proxyclip(state: State, window: Window, features: Tensor, grid: tuple[int, int]) -> Tensor:
    """By the features (N', E) of another network on its grid."""
    number, similar = depth(state), similarity(features)
    sharp = 3 * (similar - 1.2 * similar.mean())
    sharp = sharp.masked_fill((sharp < 0) & (torch.eye(len(sharp)) == 0), float("-inf"))
    values = heads(state, number, window.entering[-1])[2][:, 1:]
    large = values.transpose(1, 2).reshape(1, -1, *window.grid)
    large = F.interpolate(large, size=grid, mode="bilinear", align_corners=False)
    values = large.reshape(len(values), HEAD, -1).transpose(1, 2)
    return gathered(state, number, sharp.softmax(-1), values)


Leaving = Callable[[State, Window], Tensor]
METHODS: dict[str, Leaving] = {
    "sclip": sclip,
    "clearclip": clearclip,
    "naclip": naclip,
    "resclip": resclip,
    "sc-clip": sc_clip,
    "sfp": sfp,
    "gem": gem,
}


def projected(state: State, patches: Tensor) -> Tensor:
    return norm(state, "visual.ln_post", patches) @ state["visual.proj"]


def window_cosines(
    state: State, method: Leaving, image: Tensor, texts: Tensor, owners: Sequence[int], constants: Constants
) -> Tensor:
    """Cosines (Q, h, w) of a window (3, h, w) with the texts (Q, E)."""
    patch, (height, width) = state["visual.conv1.weight"].shape[-1], image.shape[1:]
    tall, wide = -height % patch, -width % patch
    padded = F.pad(image, (wide // 2, wide - wide // 2, tall // 2, tall - tall // 2))
    grid = (padded.shape[1] // patch, padded.shape[2] // patch)
    entering = entering_blocks(state, padded, antialias=method is gem)
    features = projected(state, method(state, Window(padded, entering, grid, texts, owners, constants)))
    side = round((len(features) * padded.shape[1] / padded.shape[2]) ** 0.5)  # rows; of another network's grid too
    grids = (F.normalize(features, dim=-1) @ texts.T).T.reshape(1, len(texts), side, -1)
    large = F.interpolate(grids, size=padded.shape[1:], mode="bilinear", align_corners=False)[0]
    return large[:, tall // 2 : tall // 2 + height, wide // 2 : wide // 2 + width]


def places(length: int, window: int, stride: int) -> list[tuple[int, int]]:
    """First and last of each window along an axis, as mmsegmentation has them."""
    window = min(window or length, length)
    steps = ceil(max(length - window, 0) / stride) + 1
    ends = [min(step * stride + window, length) for step in range(steps)]
    return [(end - window, end) for end in ends]


@torch.no_grad()
def slide(image: Tensor, constants: Constants, score: Callable[[Tensor], Tensor]) -> Tensor:
    """The windows' mean scores (C, H, W) over a scaled image (3, H, W); `score` takes a window (3, h, w)."""
    total, count = torch.zeros(()), torch.zeros(image.shape[1:])
    for top, bottom in places(image.shape[1], constants.window, constants.stride):
        for left, right in places(image.shape[2], constants.window, constants.stride):
            found = score(image[:, top:bottom, left:right])
            total = torch.zeros(len(found), *image.shape[1:]) if total.dim() == 0 else total
            total[:, top:bottom, left:right] += found
            count[top:bottom, left:right] += 1
    return total / count


def image_cosines(
    state: State, method: Leaving, image: Tensor, texts: Tensor, owners: Sequence[int], constants: Constants
) -> Tensor:
    """The windows' mean (Q, H, W) over a scaled image (3, H, W)."""
    return slide(image, constants, lambda window: window_cosines(state, method, window, texts, owners, constants))


def scaled(photo: np.ndarray, constants: Constants) -> Tensor:
    """A photo (H, W, 3) uint8 RGB as the network sees it, (3, h, w)."""
    height, width = photo.shape[:2]
    factor = min(2048 / max(height, width), constants.short_side / min(height, width))
    size = (int(width * factor + 0.5), int(height * factor + 0.5))
    small = cv2.resize(photo, size, interpolation=cv2.INTER_LINEAR).astype(np.float32)
    pixels = (small - np.array(MEAN, np.float32)) / np.array(STD, np.float32)
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


@torch.no_grad()
def label_map_of(
    state: State, method: Leaving, photo: np.ndarray, texts: Tensor, owners: Sequence[int], constants: Constants
) -> np.ndarray:
    """(H, W) int64 labels of a photo at its own size; 0 is the background where there are words of class 0 for it."""
    image, size = scaled(photo, constants), photo.shape[:2]
    cosines = image_cosines(state, method, image, texts, owners, constants)[None]
    cosines = F.interpolate(cosines, size=size, mode="bilinear", align_corners=False)[0]
    if constants.pamr:
        around = F.interpolate(image[None], size=size, mode="bilinear", align_corners=False)[0]
        cosines = pamr(cosines, around, constants.pamr)
    probabilities = (constants.scale * cosines).softmax(dim=0)
    owner = torch.tensor(list(owners))
    values = torch.stack([probabilities[owner == index].amax(dim=0) for index in range(int(owner.max()) + 1)])
    if constants.area_threshold:
        pixels = torch.bincount(values.argmax(dim=0).flatten(), minlength=len(values))
        for index in range(1, len(values)):
            if pixels[index] <= constants.area_threshold * pixels[1:].sum():
                values[index] = 0
    best, labels = values.max(dim=0)
    labels[best < constants.prob_threshold] = 0
    return labels.numpy()


def mean_attention(state: State, entering: Sequence[Tensor], numbers: Sequence[int]) -> Tensor:
    """The ordinary attention of these blocks between patches, averaged over heads and blocks, (N, N)."""
    total = torch.zeros(())
    for number in numbers:
        q, k, _ = heads(state, number, entering[number - 1])
        total = total + own(q, k).softmax(-1).mean(dim=0)[1:, 1:]
    return total / len(numbers)


def from_zero_to_one(values: Tensor) -> Tensor:
    return (values - values.min()) / (1e-7 + (values - values.min()).max())


def refined(attention: Tensor, maps: Tensor, threshold: float) -> Tensor:
    """CLIP-ES's affinity on maps (C, h, w), one after the other."""
    affinity = transition(attention)
    found = []
    for one in maps:
        mask = torch.from_numpy(box_mask(one.numpy(), threshold)).flatten()
        found.append(from_zero_to_one((affinity * mask) @ one.flatten()).view(one.shape))
    return torch.stack(found)


@torch.no_grad()
def freecp_window(
    state: State,
    image: Tensor,
    texts: Tensor,
    owners: Sequence[int],
    constants: Constants,
) -> Tensor:
    """Maps (C, h, w) of a window of whole patches (3, h, w), ClearCLIP below; no classes are told apart in crops."""
    patch = state["visual.conv1.weight"].shape[-1]
    grid = (image.shape[1] // patch, image.shape[2] // patch)
    entering = entering_blocks(state, image)
    features = projected(state, clearclip(state, Window(image, entering, grid, texts, owners, constants)))
    shares = (constants.scale * F.normalize(features, dim=-1) @ texts.T).softmax(dim=-1).T.reshape(-1, *grid)
    owner = torch.tensor(list(owners))
    first = int((owner == 0).any())
    values = torch.stack([shares[owner == index].amax(dim=0) for index in range(first, int(owner.max()) + 1)])
    maps = refined(mean_attention(state, entering, range(1, depth(state))), from_zero_to_one(values), 0.4)
    for index, (own_values, own_map) in enumerate(zip(values, maps)):
        score = (own_values * own_map).sum() / (own_values.sum() + own_map.sum() + 1e-8)
        if not score > constants.more["redundancy"]:
            maps[index] = 0
    return F.interpolate(maps[None], size=image.shape[1:], mode="bilinear", align_corners=False)[0]


@torch.no_grad()
def excel_maps(state: State, image: Tensor, texts: Tensor, present: Sequence[int], threshold: float = 0.79) -> Tensor:
    """ExCEL's refined maps (k, h, w) of an image (3, H, W) of whole patches, for the texts (K, E) of all classes."""
    patch, count = state["visual.conv1.weight"].shape[-1], depth(state)
    grid = (image.shape[1] // patch, image.shape[2] // patch)
    entering = entering_blocks(state, image, "bilinear")
    path = entering[max(0, count - 5)]
    for number in range(max(1, count - 4), count + 1):
        parts = heads(state, number, entering[number - 1])
        attention = sum(own(z).softmax(-1) for z in parts)
        path = path + gathered(state, number, attention.sum(dim=0, keepdim=True) / 3, parts[2])  # type: ignore[union-attr]
    features = F.normalize(projected(state, path[1:]), dim=-1)
    of_image = F.normalize(projected(state, block(state, count, entering[-1])[0]), dim=-1)
    weights = (2 * texts @ of_image).softmax(dim=0)
    weighted = features @ texts.T * (weights / weights.mean())
    surgery = (weighted - weighted.mean(dim=1, keepdim=True)).T.reshape(-1, *grid)
    maps = torch.stack([from_zero_to_one(surgery[label]) for label in present])
    return refined(mean_attention(state, entering, range(max(1, count - 5), count + 1)), maps, threshold)


def labels_of_maps(maps: Tensor, size: tuple[int, int], has_background: bool = True) -> np.ndarray:
    """(H, W) labels of maps (C, h, w) in [0, 1]; the background is what they leave."""
    large = F.interpolate(maps[None], size=size, mode="bilinear", align_corners=False)[0]
    rest = [1 - large.amax(dim=0, keepdim=True)] if has_background else []
    return torch.cat([*rest, large]).argmax(dim=0).numpy()
