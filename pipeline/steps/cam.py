"""Step 1: softmax Grad-CAM at the last layer norm of attention (Lin et al. 2023, CLIP-ES, section 3.1)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from clip.transformer import VisionTransformer
from clip.vision import pooled_patch_features, run_block
from pipeline.steps.tensors import min_max


def softmax_gradcam(
    visual: VisionTransformer,
    last_input: Tensor,
    grid: tuple[int, int],
    labels: Sequence[Sequence[int]],
    foreground: Tensor,
    background: Tensor,
    logit_scale: Tensor,
) -> tuple[list[Tensor], Tensor]:
    """CAMs of the classes present in each image of a batch, and the last block's attention.

    last_input   (B, 1+N, D) tokens that enter the last block
    labels       B sequences of k_i class indices into `foreground`; k_i may be 0
    foreground   (K, E) unit text embeddings of the data set's classes
    background   (b, E) unit text embeddings that compete with them
    logit_scale  scalar, exp(logit_scale) of the model
    Returns B tensors (k_i, h, w), float32 in [0, 1], and (B, N, N) as in clip.vision.VisionFeatures.

    The softmax of an image runs over its present classes and the background prompts only. Images of a batch do not
    mix, so those with equally many classes go together: one forward pass, and one backward pass for the j-th class of
    all of them, through the last block and through nothing else. (All classes in one batched backward pass take a
    quarter longer on a CPU.)
    """
    block, patches = visual.transformer.resblocks[-1], grid[0] * grid[1]
    cams: list[Tensor] = [last_input.new_zeros((0, *grid))] * len(labels)
    attention = last_input.new_empty(len(labels), patches, patches)
    for count in sorted({len(present) for present in labels}):
        members = [i for i, present in enumerate(labels) if len(present) == count]  # G images
        tokens = last_input[members]
        activation = block.ln_1(tokens).detach()  # (G, 1+N, D)
        shift = torch.zeros_like(activation[:, 0]).requires_grad_(True)  # of all patch tokens of the activation
        with torch.enable_grad():
            output, block_attention = run_block(block, tokens, normed=activation, need_attention=True, shift=shift)
            assert block_attention is not None
            attention[members] = block_attention.detach()[:, 1:, 1:]
            if not count:
                continue
            features = pooled_patch_features(visual, output)
            classes = torch.tensor([list(labels[i]) for i in members], device=last_input.device)  # (G, k)
            probabilities = class_probabilities(features, classes, foreground, background, logit_scale)
            sums = [
                torch.autograd.grad(probabilities[:, slot].sum(), shift, retain_graph=True)[0] for slot in range(count)
            ]
        gradients = torch.stack(sums, dim=1) / patches  # (G, k, D): the mean over the patches
        for i, image_activation, image_gradients in zip(members, activation, gradients):
            cams[i] = cam_from_gradients(image_activation, image_gradients, grid)
    return cams, attention


def class_probabilities(
    features: Tensor, classes: Tensor, foreground: Tensor, background: Tensor, logit_scale: Tensor
) -> Tensor:
    """(G, k) softmax probabilities of the classes present in each image, against each other and the background.

    features  (G, E) unit image features
    classes   (G, k) int64 indices into `foreground`
    """
    logits = logit_scale * features @ torch.cat([foreground, background]).T  # (G, K+b)
    present = logits.gather(1, classes)
    return torch.cat([present, logits[:, len(foreground) :]], dim=1).softmax(dim=-1)[:, : classes.shape[1]]


def cam_from_gradients(activation: Tensor, gradients: Tensor, grid: tuple[int, int]) -> Tensor:
    """relu(sum_d w_d X_d), min-max normalised, with w the mean gradient over the patches.

    activation  (1+N, D)
    gradients   (k, D), that mean for each class's probability
    Returns (k, h, w) in [0, 1].

    The normalisation is done twice, as in the reference. That matters: an improbable class has gradients near
    the 1e-7 that guards the division; one pass would leave its map dark (on the golden data: 0.3 instead of 1).
    """
    cams = torch.relu(gradients @ activation[1:].T)  # (k, N)
    return min_max(min_max(cams.view(-1, *grid)))
