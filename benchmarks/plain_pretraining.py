"""A training step of SegCLIP as the reference code takes it: what ours is compared with.

Everything is computed from a state dict of tensors that learn or not: attention as matrix products and a softmax, texts
of 32 tokens with their padding, two passes over the image, and an optimiser that goes from weight to weight
(Luo et al., ICML 2023; docs/methods.md, section 7.3).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.plain_segclip import SEMANTIC, VISION, linear, mlp, norm, quick_gelu

State = Mapping[str, Tensor]
DECODER = "vis_mae_decoder."
BETAS, EPSILON, DECAY = (0.9, 0.98), 1e-6, 0.05


@dataclass(frozen=True)
class PlainBatch:
    """images (B, 3, S, S) normalised, tokens (B, 32), ids (B, N); Gumbel noise (B, G, N), (B, G, n); order (B, N)."""

    images: Tensor
    tokens: Tensor
    ids: Tensor
    noise: Tensor
    masked_noise: Tensor
    order: Tensor


def attention(state: State, name: str, query: Tensor, known: Tensor, mask: Tensor | None = None) -> Tensor:
    """(B, T, D) looks at (B, S, D), 64 channels a head."""
    width = query.shape[-1]
    heads = max(1, width // 64)
    weights, biases = state[f"{name}.in_proj_weight"].chunk(3), state[f"{name}.in_proj_bias"].chunk(3)
    inputs = (query, known, known)
    q, k, v = (
        F.linear(x, weight, bias).unflatten(-1, (heads, -1)).transpose(1, 2).contiguous()
        for x, weight, bias in zip(inputs, weights, biases)
    )
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    scores = scores if mask is None else scores + mask
    return linear(state, f"{name}.out_proj", (scores.softmax(-1) @ v).transpose(1, 2).flatten(2))


def block(state: State, name: str, x: Tensor, mask: Tensor | None = None) -> Tensor:
    normed = norm(state, f"{name}.ln_1", x)
    x = x + attention(state, f"{name}.attn", normed, normed, mask)
    return x + mlp(state, f"{name}.mlp", norm(state, f"{name}.ln_2", x))


def stage(state: State, name: str, x: Tensor, mask: Tensor | None = None) -> Tensor:
    """All blocks of a name."""
    index = 0
    while f"{name}.{index}.ln_1.weight" in state:
        x = block(state, f"{name}.{index}", x, mask)
        index += 1
    return x


def text_features(state: State, tokens: Tensor) -> Tensor:
    length = tokens.shape[1]
    mask = torch.full((length, length), float("-inf")).triu(1)
    x = state["clip.token_embedding.weight"][tokens] + state["clip.positional_embedding"][:length]
    x = (
        norm(state, "clip.ln_final", stage(state, "clip.transformer.resblocks", x, mask))
        @ state["clip.text_projection"]
    )
    return x[torch.arange(len(x)), tokens.argmax(-1)]


def patch_tokens(state: State, images: Tensor, keep: Tensor | None = None) -> Tensor:
    kernel = state[f"{VISION}conv1.weight"]
    patches = F.conv2d(images, kernel, stride=kernel.shape[-1]).flatten(2).transpose(1, 2)
    first = state[f"{VISION}class_embedding"].expand(len(patches), 1, -1)
    tokens = torch.cat([first, patches], 1) + state[f"{VISION}positional_embedding"]
    tokens = norm(state, f"{VISION}ln_pre", tokens)[:, 1:]
    if keep is not None:
        tokens = tokens.gather(1, keep[..., None].expand(-1, -1, tokens.shape[-1]))
    return stage(state, f"{VISION}transformer.layers0", tokens)


def gather(state: State, tokens: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """The drawn assignment (B, G, N) and the groups' tokens (B, G, D)."""
    centres = state[f"{SEMANTIC}semantic_center"].expand(len(tokens), -1, -1)
    for name in (f"{SEMANTIC}cross_att.0", f"{SEMANTIC}cross_att.1"):
        known = norm(state, f"{name}.ln_k", torch.cat([centres, tokens], 1))
        centres = centres + attention(state, f"{name}.attn", norm(state, f"{name}.ln_x", centres), known)
        centres = centres + mlp(state, f"{name}.mlp", norm(state, f"{name}.ln_2", centres))
    centres = norm(state, f"{SEMANTIC}cross_ln", centres)
    channels = norm(state, f"{SEMANTIC}norm", tokens).transpose(1, 2)
    convs = channels.shape[1] // 64
    keys, values = (
        F.conv1d(channels, state[f"{SEMANTIC}{name}.weight"], groups=convs).transpose(1, 2)
        for name in ("k_conv", "v_conv")
    )
    logits = centres @ norm(state, f"{SEMANTIC}k_ln", keys).transpose(1, 2)
    soft = ((logits + noise) / 0.9).softmax(1)
    hard = F.one_hot(soft.argmax(1), soft.shape[1]).transpose(1, 2) - soft.detach() + soft
    counts = hard.sum(-1, keepdim=True)
    inner = norm(state, f"{SEMANTIC}proj_o.ln", centres + hard @ values / torch.where(counts > 0.5, counts, 1.0))
    inner = F.gelu(linear(state, f"{SEMANTIC}proj_o.mlp.fc1", inner))
    return hard, quick_gelu(linear(state, f"{SEMANTIC}proj_o.mlp.fc2", inner))


def image_features(state: State, groups: Tensor) -> Tensor:
    groups = stage(state, f"{VISION}transformer.layers2", groups)
    tokens = torch.cat([groups.amax(1, keepdim=True), groups], 1)
    return (norm(state, f"{VISION}ln_post", tokens) @ state[f"{VISION}proj"])[:, 0]


def divergence(p: Tensor, q: Tensor) -> Tensor:
    return (p * (p.log() - q.log())).sum() / p.numel()


def superpixel_loss(hard: Tensor, ids: Tensor) -> Tensor:
    groups = hard.transpose(1, 2)
    same = (ids[:, :, None] == ids[:, None]).float()
    mean = (same @ groups / same.sum(-1, keepdim=True)).softmax(-1)
    patch = groups.softmax(-1)
    return (divergence(mean, patch) + divergence(patch, mean)) / 2


def decoder_block(state: State, name: str, x: Tensor) -> Tensor:
    def normed(part: str, values: Tensor) -> Tensor:
        return F.layer_norm(
            values, values.shape[-1:], state[f"{name}.{part}.weight"], state[f"{name}.{part}.bias"], 1e-6
        )

    q, k, v = linear(state, f"{name}.attn.qkv", normed("norm1", x)).unflatten(-1, (3, 8, -1)).permute(2, 0, 3, 1, 4)
    seen = ((q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)).softmax(-1) @ v
    x = x + linear(state, f"{name}.attn.proj", seen.transpose(1, 2).flatten(2))
    inner = F.gelu(linear(state, f"{name}.mlp.fc1", normed("norm2", x)))
    return x + linear(state, f"{name}.mlp.fc2", inner)


def masked_loss(state: State, batch: PlainBatch) -> Tensor:
    count, kept = batch.order.shape[1], batch.masked_noise.shape[-1]
    keep, restore = batch.order[:, :kept], batch.order.argsort(1)
    hard, groups = gather(state, patch_tokens(state, batch.images, keep), batch.masked_noise)
    assigned = linear(state, f"{VISION}transformer.reconstruct_layer2.rec_proj_a.a_fc", hard.transpose(1, 2))
    tokens = stage(state, f"{VISION}transformer.layers_mae2", quick_gelu(assigned @ groups))
    x = linear(state, f"{DECODER}decoder_embed", torch.cat([tokens.mean(1, keepdim=True), tokens], 1))
    rest = state[f"{DECODER}mask_token"].expand(len(x), count - kept, -1)
    patches = torch.cat([x[:, 1:], rest], 1).gather(1, restore[..., None].expand(-1, -1, x.shape[-1]))
    x = torch.cat([x[:, :1], patches], 1) + state[f"{DECODER}decoder_pos_embed"]
    for index in range(3):
        x = decoder_block(state, f"{DECODER}decoder_blocks.{index}", x)
    x = F.layer_norm(
        x, x.shape[-1:], state[f"{DECODER}decoder_norm.weight"], state[f"{DECODER}decoder_norm.bias"], 1e-6
    )
    predicted = linear(state, f"{DECODER}decoder_pred", x)[:, 1:]
    patch = state[f"{VISION}conv1.weight"].shape[-1]
    wanted = F.unfold(batch.images, patch, stride=patch).unflatten(1, (3, -1)).permute(0, 3, 2, 1).flatten(2)
    left_out = (restore >= kept).float()
    return ((predicted - wanted).square().mean(-1) * left_out).sum() / left_out.sum()


def loss_of(state: State, batch: PlainBatch) -> Tensor:
    """The sum of the three losses."""
    hard, groups = gather(state, patch_tokens(state, batch.images), batch.noise)
    images = F.normalize(image_features(state, groups), dim=-1)
    texts = F.normalize(text_features(state, batch.tokens), dim=-1)
    logits = state["clip.logit_scale"].exp().clamp(max=100) * texts @ images.T
    targets = torch.arange(len(logits))
    contrast = (F.cross_entropy(logits, targets) + F.cross_entropy(logits.T, targets)) / 2
    return contrast + superpixel_loss(hard, batch.ids) + masked_loss(state, batch)


@dataclass
class PlainAdamW:
    """AdamW that goes from weight to weight; rates and decays by name."""

    rates: Mapping[str, float]
    moments: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    steps: int = 0

    @torch.no_grad()
    def step(self, state: State, share: float) -> None:
        """share  of the highest rates"""
        self.steps += 1
        for name, rate in self.rates.items():
            weight = state[name]
            assert weight.grad is not None
            first, second = self.moments.setdefault(name, (torch.zeros_like(weight), torch.zeros_like(weight)))
            first.mul_(BETAS[0]).add_(weight.grad, alpha=1 - BETAS[0])
            second.mul_(BETAS[1]).addcmul_(weight.grad, weight.grad, value=1 - BETAS[1])
            corrected = second.div(1 - BETAS[1] ** self.steps).sqrt().add_(EPSILON)
            weight.mul_(1 - share * rate * (0.0 if "bias" in name else DECAY))
            weight.add_(first.div(corrected), alpha=-share * rate / (1 - BETAS[0] ** self.steps))


def plain_step(state: State, optimizer: PlainAdamW, batch: PlainBatch, share: float) -> float:
    """One change of the weights; returns the loss."""
    for name in optimizer.rates:
        state[name].grad = None
    loss = loss_of(state, batch)
    loss.backward()
    gradients = [state[name].grad for name in optimizer.rates]
    length = math.sqrt(sum(float(gradient.norm()) ** 2 for gradient in gradients if gradient is not None))
    for gradient in gradients:
        if gradient is not None:
            gradient.mul_(min(1.0, 1.0 / (length + 1e-6)))
    optimizer.step(state, share)
    with torch.no_grad():
        state["clip.logit_scale"].clamp_(max=math.log(100))
    return float(loss.detach())
