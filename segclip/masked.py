"""The second forward of SegCLIP's pretraining: most patches are left out and drawn again from the groups of the others.

    predicted, gathered = draw_again(network, images, keep, restore, noise)
    wanted = pixel_patches(images, patch)  # compared with `predicted`, where patches were left out

Letters: B images, G groups, N patches of an image, n of them kept, D width, C = 3 p p values of a patch.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from clip.vision import run_block
from segclip.forward import Gathered, gather, patch_tokens
from segclip.network import DECODER_HEADS, DecoderBlock, GroupingTransformer, MaskedDecoder, SegClip


def draw_again(
    network: SegClip,
    images: Tensor,
    keep: Tensor,
    restore: Tensor,
    noise: Tensor | None = None,
    mixed: bool = False,
) -> tuple[Tensor, Gathered]:
    """The values (B, N, C) of all patches, and what the semantic layer made of those that were kept.

    images   (B, 3, H, W) normalised, of the size that the network was made for
    keep     (B, n) int64 patches that are kept, in the order in which they pass
    restore  (B, N) int64: the place of each patch in a row of the kept ones, in that order, and then the others
    noise    (B, G, n) Gumbel noise, as in `gather`
    mixed    as in `gather`
    """
    assert network.vis_mae_decoder is not None, "a network without decoder"
    transformer = network.clip.visual.transformer
    gathered = gather(transformer.semantic_layer2, patch_tokens(network.clip.visual, images, keep), noise, mixed)
    return decode(network.vis_mae_decoder, reconstructed(transformer, gathered), restore), gathered


def reconstructed(transformer: GroupingTransformer, gathered: Gathered) -> Tensor:
    """(B, n, D): every patch's token made of those of its groups, then `layers_mae2`."""
    layer = transformer.reconstruct_layer2
    tokens = layer.act(layer.rec_proj_a.a_fc(gathered.hard.transpose(1, 2)) @ gathered.tokens)
    for block in transformer.layers_mae2:
        tokens = run_block(block, tokens)[0]
    return tokens


def decode(decoder: MaskedDecoder, tokens: Tensor, restore: Tensor) -> Tensor:
    """Tokens of the kept patches (B, n, D) to the values (B, N, C) of all; `restore` as in `draw_again`.

    The mean of the kept tokens takes the place of the class token.
    """
    known = decoder.decoder_embed(torch.cat([tokens.mean(dim=1, keepdim=True), tokens], dim=1))
    masks = decoder.mask_token.to(known.dtype).expand(len(known), restore.shape[1] - tokens.shape[1], -1)
    patches = torch.cat([known[:, 1:], masks], dim=1)
    patches = patches.gather(1, restore[..., None].expand(-1, -1, patches.shape[-1]))
    x = torch.cat([known[:, :1], patches], dim=1) + decoder.decoder_pos_embed
    for block in decoder.decoder_blocks:
        x = _decoder_block(block, x)
    return decoder.decoder_pred(decoder.decoder_norm(x))[:, 1:]


def _decoder_block(block: DecoderBlock, x: Tensor) -> Tensor:
    batch, length, width = x.shape
    query, key, value = block.attn.qkv(block.norm1(x)).view(batch, length, 3, DECODER_HEADS, -1).permute(2, 0, 3, 1, 4)
    seen = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).reshape(batch, length, width)
    x = x + block.attn.proj(seen)
    return x + block.mlp(block.norm2(x))


def pixel_patches(images: Tensor, patch: int) -> Tensor:
    """Images (B, 3, h*p, w*p) to the values (B, h*w, 3*p*p) of their patches: row, column, channel."""
    batch, channels, height, width = images.shape
    cells = images.view(batch, channels, height // patch, patch, width // patch, patch)
    return cells.permute(0, 2, 4, 3, 5, 1).reshape(batch, -1, channels * patch**2)


def fixed_positions(side: int, width: int) -> Tensor:
    """(1, 1+side*side, width) float32 of sines and cosines of each patch's x, then its y; zero for the first token."""
    steps = width // 4
    rates = 10000.0 ** -(torch.arange(steps, dtype=torch.float64) / steps)
    y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    angles = [place.reshape(-1, 1) * rates for place in (x, y)]
    waves = torch.cat([part for angle in angles for part in (angle.sin(), angle.cos())], dim=1)
    return torch.cat([torch.zeros(1, width, dtype=torch.float64), waves]).float()[None]
