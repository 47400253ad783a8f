"""The forward passes against a plain transcription, window by window, and by their definitions."""

import torch
import torch.nn.functional as F

from benchmarks import plain_segclip as plain
from segclip.forward import gather, group_features, look, patch_tokens
from segclip.masked import draw_again, pixel_patches, reconstructed
from tests.segclip.small import PATCH, SIDE, small_segclip


def images(count: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(count, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def test_each_image_of_a_batch_gives_what_the_plain_transcription_gives() -> None:
    network, batch = small_segclip(), images(3)
    state, visual = network.state_dict(), network.clip.visual
    tokens = patch_tokens(visual, batch)
    gathered = gather(visual.transformer.semantic_layer2, tokens)
    image_features, group_tokens = group_features(visual, gathered.tokens)
    used = set()
    for index, image in enumerate(batch):
        theirs = plain.patch_tokens(state, image)
        logits, groups = plain.groups_of(state, theirs)
        features = plain.features_of(state, groups)
        assert torch.allclose(tokens[index], theirs, atol=1e-4)
        assert torch.allclose(gathered.centres[index], plain.centres_of(state, theirs), atol=1e-4)
        assert torch.allclose(gathered.logits[index], logits, atol=1e-3)
        assert torch.allclose(gathered.soft[index], logits.softmax(0), atol=1e-4)
        assert torch.equal(gathered.hard[index], F.one_hot(logits.argmax(0), len(logits)).T.float())
        assert torch.allclose(gathered.tokens[index], groups, atol=1e-4)
        assert torch.allclose(image_features[index], features[0], atol=1e-4)
        assert torch.allclose(group_tokens[index], features[1], atol=1e-4)
        used |= set(logits.argmax(0).tolist())
    assert len(used) > 2  # else the test would see little of the assignment


@torch.no_grad()
def test_mixed_centres_look_at_every_bth_token_of_the_whole_batch() -> None:
    layer = small_segclip().clip.visual.transformer.semantic_layer2
    tokens = torch.randn(3, 16, 128, generator=torch.Generator().manual_seed(2))
    centres = layer.semantic_center.expand(3, -1, -1)
    block, groups = layer.cross_att[0], len(layer.semantic_center)
    rows = block.ln_k(torch.cat([centres, tokens], dim=1)).flatten(0, 1)  # image after image
    mixed = look(block, centres, tokens, mixed=True)
    for index in range(3):
        seen = rows[index::3]
        assert len(seen) == groups + 16
        ours, _ = block.attn(block.ln_x(centres[:1]), seen[None], seen[None])
        wanted = centres[:1] + ours
        wanted = wanted + block.mlp(block.ln_2(wanted))
        assert torch.allclose(mixed[index], wanted[0], atol=1e-5)
    assert not torch.allclose(mixed, look(block, centres, tokens), atol=1e-2)
    assert torch.equal(look(block, centres[:1], tokens[:1], mixed=True), look(block, centres[:1], tokens[:1]))


def test_a_drawn_group_is_the_noisy_largest_and_has_the_gradient_of_the_softmax() -> None:
    layer = small_segclip().clip.visual.transformer.semantic_layer2.requires_grad_(True)
    tokens = torch.randn(2, 16, 128, generator=torch.Generator().manual_seed(3))
    noise = 5 * torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(4))
    gathered = gather(layer, tokens, noise)
    wanted = F.one_hot((gathered.logits + noise).argmax(1), 5).transpose(1, 2).float()
    assert torch.allclose(gathered.hard, wanted, atol=1e-6) and not torch.equal(wanted, gather(layer, tokens).hard)
    weights = torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(5))
    soft = ((gathered.logits + noise) / 0.9).softmax(1)
    ours = torch.autograd.grad((gathered.hard * weights).sum(), layer.semantic_center, retain_graph=True)[0]
    theirs = torch.autograd.grad((soft * weights).sum(), layer.semantic_center)[0]
    assert ours.abs().max() > 0 and torch.allclose(ours, theirs, atol=1e-6)


@torch.no_grad()
def test_the_masked_image_sees_the_kept_patches_alone_and_puts_them_back() -> None:
    network, batch = small_segclip(), images(2)
    order = torch.stack([torch.randperm(16, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1)])
    keep, restore = order[:, :6], order.argsort(1)
    predicted, gathered = draw_again(network, batch, keep, restore)
    assert predicted.shape == (2, 16, 3 * PATCH**2) and gathered.hard.shape == (2, 5, 6)
    changed = batch.clone()  # in a patch that is left out
    row, column = divmod(int(order[0, 10]), SIDE // PATCH)
    changed[0, :, row * PATCH : (row + 1) * PATCH, column * PATCH : (column + 1) * PATCH] += 1
    assert torch.equal(draw_again(network, changed, keep, restore)[0], predicted)

    # The decoder by its own words, with torch's attention.
    decoder, transformer = network.vis_mae_decoder, network.clip.visual.transformer
    assert decoder is not None
    tokens = reconstructed(transformer, gathered)
    for index in range(2):
        rows = decoder.mask_token[0].repeat(17, 1)
        rows[0] = decoder.decoder_embed(tokens[index].mean(0))
        rows[1 + keep[index]] = decoder.decoder_embed(tokens[index])
        x = rows + decoder.decoder_pos_embed[0]
        for block in decoder.decoder_blocks:
            normed = F.layer_norm(x, (64,), block.norm1.weight, block.norm1.bias, 1e-6)[:, None]
            seen, _ = F.multi_head_attention_forward(
                normed, normed, normed, 64, 8, block.attn.qkv.weight, block.attn.qkv.bias, None, None, False, 0.0,
                block.attn.proj.weight, block.attn.proj.bias, training=False,
            )  # fmt: skip
            x = x + seen[:, 0]
            x = x + block.mlp(F.layer_norm(x, (64,), block.norm2.weight, block.norm2.bias, 1e-6))
        wanted = decoder.decoder_pred(
            F.layer_norm(x, (64,), decoder.decoder_norm.weight, decoder.decoder_norm.bias, 1e-6)
        )
        assert torch.allclose(predicted[index], wanted[1:], atol=1e-5)


def test_the_values_of_a_patch_go_row_by_row_with_the_colour_fastest() -> None:
    image = torch.arange(3 * 4 * 6, dtype=torch.float32).view(1, 3, 4, 6)
    patches = pixel_patches(image, 2)
    assert patches.shape == (1, 6, 12)
    for index, patch in enumerate(patches[0]):
        top, left = 2 * (index // 3), 2 * (index % 3)
        wanted = [image[0, colour, top + y, left + x] for y in (0, 1) for x in (0, 1) for colour in (0, 1, 2)]
        assert patch.tolist() == wanted
