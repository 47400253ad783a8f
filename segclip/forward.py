"""How images pass through SegCLIP: patch tokens, groups that gather them, features (docs/methods.md, section 7).

    tokens = patch_tokens(visual, images)                  # (B, N, D), behind `layers0`
    gathered = gather(visual.transformer.semantic_layer2, tokens, noise)
    features = group_features(visual, gathered.tokens)     # of the image (B, E) and of its groups (B, G, E)
    texts = network.clip(token_ids)                        # (P, E), of any length up to the context

None is normalised. Gradients flow wherever the caller lets them; a training step passes Gumbel noise, everything else
passes none. `visual` is `network.clip.visual`. segclip/masked.py has the second forward of the pretraining.
Letters: B images, G groups, N patches, D width, E embedding.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from clip.vision import RunBlock, embed_patches, run_block
from segclip.network import CrossBlock, GroupingVision, SemanticLayer

TEMPERATURE = 0.9  # of the noisy assignment (Xu et al., GroupViT, CVPR 2022)
HIGHEST_SCALE = 100.0  # of logits, exp(logit_scale) at most


@dataclass(frozen=True)
class Gathered:
    """What the semantic layer makes of an image's patches.

    centres  (B, G, D) after they looked at the patches
    logits   (B, G, N) of each patch for each centre, without noise
    soft     (B, G, N) softmax of the logits over the groups
    hard     (B, G, N) each patch in one group: 0 or 1, in training with the gradient of a softmax
    tokens   (B, G, D) of the groups
    """

    centres: Tensor
    logits: Tensor
    soft: Tensor
    hard: Tensor
    tokens: Tensor


def patch_tokens(
    visual: GroupingVision, images: Tensor, keep: Tensor | None = None, run: RunBlock = run_block
) -> Tensor:
    """Images (B, 3, h*p, w*p), normalised, to tokens (B, N, D) behind `layers0`. The class token is not used.

    keep  (B, n) int64 patches that are let in, in this order; None: all
    run   what runs a block, such as a compiled `run_block`
    """
    tokens = embed_patches(visual, images, "bicubic")[0][:, 1:]
    if keep is not None:
        tokens = tokens.gather(1, keep[..., None].expand(-1, -1, tokens.shape[-1]))
    for block in visual.transformer.layers0:
        tokens = run(block, tokens)[0]
    return tokens


def gather(layer: SemanticLayer, tokens: Tensor, noise: Tensor | None = None, mixed: bool = False) -> Gathered:
    """Centres look at the patches (B, N, D), and each patch goes to one of them.

    noise  (B, G, N) Gumbel noise for training: the group of a patch is then drawn, with a gradient; None: the most
           probable one, without gradient
    mixed  as in `look`
    """
    centres = layer.semantic_center.to(tokens.dtype).expand(len(tokens), -1, -1)
    for block in layer.cross_att:
        centres = look(block, centres, tokens, mixed)
    centres = layer.cross_ln(centres)
    channels = layer.norm(tokens).transpose(1, 2)  # (B, D, N)
    keys = layer.k_ln(layer.k_conv(channels).transpose(1, 2))
    values = layer.v_conv(channels).transpose(1, 2)
    logits = centres @ keys.transpose(1, 2)
    hard = one_hot(logits) if noise is None else drawn(logits, noise)
    counts = hard.sum(dim=-1, keepdim=True)
    counts = torch.where(counts > 0.5, counts, 1.0)  # clamp(min=1) may stop the gradient of a group of one patch
    gathered = hard @ values / counts
    return Gathered(centres, logits, logits.softmax(dim=1), hard, layer.proj_o(centres + gathered))


def look(block: CrossBlock, centres: Tensor, tokens: Tensor, mixed: bool = False) -> Tensor:
    """One cross-attention block: centres (B, G, D) look at themselves and at the patches (B, N, D).

    mixed  centres look at every B-th token of the whole batch, as in the published code under PyTorch 1.8
           (docs/methods.md, section 7). The same as without for a batch of one image
    """
    layer, (batch, groups, width) = block.attn, centres.shape
    known = block.ln_k(torch.cat([centres, tokens], dim=1))  # (B, T, D)
    if mixed:
        known = known.reshape(-1, batch, width).transpose(0, 1)
    weights, biases = (part.split([width, 2 * width]) for part in (layer.in_proj_weight, layer.in_proj_bias))
    query = F.linear(block.ln_x(centres), weights[0], biases[0]).view(batch, groups, layer.num_heads, -1)
    pairs = F.linear(known, weights[1], biases[1]).view(batch, known.shape[1], 2, layer.num_heads, -1)
    key, value = pairs.permute(2, 0, 3, 1, 4)  # each (B, heads, T, D/heads)
    seen = F.scaled_dot_product_attention(query.transpose(1, 2), key, value).transpose(1, 2)
    centres = centres + layer.out_proj(seen.reshape(batch, groups, width))
    return centres + block.mlp(block.ln_2(centres))


def one_hot(scores: Tensor) -> Tensor:
    """(B, G, N) to 1 for the largest of each patch's groups, the first of equal ones, and 0 for the others."""
    return torch.zeros_like(scores).scatter_(1, scores.argmax(dim=1, keepdim=True), 1.0)


def drawn(logits: Tensor, noise: Tensor) -> Tensor:
    """The same for logits with Gumbel noise, with the gradient of their softmax (straight through)."""
    soft = ((logits + noise) / TEMPERATURE).softmax(dim=1)
    return one_hot(soft.detach()) - soft.detach() + soft


def group_features(visual: GroupingVision, groups: Tensor) -> tuple[Tensor, Tensor]:
    """Tokens of the groups (B, G, D) to features of the image (B, E) and of its groups (B, G, E)."""
    for block in visual.transformer.layers2:
        groups = run_block(block, groups)[0]
    tokens = torch.cat([groups.amax(dim=1, keepdim=True), groups], dim=1)
    features = visual.ln_post(tokens) @ visual.proj
    return features[:, 0], features[:, 1:]


def highest_scale(logit_scale: Tensor) -> Tensor:
    """exp(logit_scale), at most 100; without gradient above."""
    return logit_scale.exp().clamp(max=HIGHEST_SCALE)
