"""Step 1: softmax Grad-CAM at the last layer norm of attention (CLIP-ES, section 3.1; clip_es sections 2, 3).

May import torch, clip.vision and pipeline.maps.
"""

from collections.abc import Sequence

import torch
from open_clip.transformer import VisionTransformer
from torch import Tensor

from clip.vision import pooled_patch_features, run_block
from pipeline.maps import min_max


def softmax_gradcam(
    visual: VisionTransformer,
    last_input: Tensor,
    grid: tuple[int, int],
    labels: Sequence[Sequence[int]],
    foreground: Tensor,
    background: Tensor,
    logit_scale: Tensor,
) -> list[Tensor]:
    """CAMs of the classes present in each image of a batch.

    last_input   (B, 1+N, D) tokens that enter the last block
    labels       B sequences of k_i class indices into `foreground`; k_i may be 0
    foreground   (K, E) unit text embeddings of the data set's classes
    background   (b, E) unit text embeddings that compete with them
    logit_scale  scalar, exp(logit_scale) of the model
    Returns B tensors (k_i, h, w), float32 in [0, 1].

    The softmax of an image runs over its present classes and the background prompts only. Images of a batch do not
    mix, so the j-th class of every image is differentiated in one backward pass through the last block, and through
    nothing else.
    """
    block = visual.transformer.resblocks[-1]
    activation = block.ln_1(last_input).detach().requires_grad_(True)  # X of clip_es section 2
    with torch.enable_grad():
        output, _ = run_block(block, last_input, normed=activation)
        features = pooled_patch_features(visual, output)
        probabilities = class_probabilities(features, labels, foreground, background, logit_scale)
        columns = [
            torch.autograd.grad(_sum_of_slot(probabilities, labels, slot), activation, retain_graph=True)[0]
            for slot in range(max(map(len, labels), default=0))
        ]
    gradients = [[columns[slot][i] for slot in range(len(present))] for i, present in enumerate(labels)]
    return [
        cam_from_gradients(activation[i].detach(), torch.stack(own), grid)
        if own
        else activation.new_zeros((0, *grid)).detach()
        for i, own in enumerate(gradients)
    ]


def class_probabilities(
    features: Tensor, labels: Sequence[Sequence[int]], foreground: Tensor, background: Tensor, logit_scale: Tensor
) -> Tensor:
    """(B, K) softmax probabilities; a class that is not present in an image takes no part there and gets 0.

    features  (B, E) unit image features
    """
    logits = logit_scale * features @ torch.cat([foreground, background]).T  # (B, K+b)
    absent = torch.ones_like(logits, dtype=torch.bool)
    absent[:, len(foreground) :] = False
    for row, present in zip(absent, labels):
        row[list(present)] = False
    return logits.masked_fill(absent, float("-inf")).softmax(dim=-1)[:, : len(foreground)]


def _sum_of_slot(probabilities: Tensor, labels: Sequence[Sequence[int]], slot: int) -> Tensor:
    rows = [i for i, present in enumerate(labels) if len(present) > slot]
    classes = [labels[i][slot] for i in rows]
    return probabilities[rows, classes].sum()


def cam_from_gradients(activation: Tensor, gradients: Tensor, grid: tuple[int, int]) -> Tensor:
    """relu(sum_d w_d X_d), min-max normalised, with w the mean gradient over the patches (clip_es section 3).

    activation  (1+N, D)
    gradients   (k, 1+N, D) of each class's probability
    Returns (k, h, w) in [0, 1].

    The normalisation is done twice, as in the reference. That matters: an improbable class has gradients near
    the 1e-7 that guards the division; one pass would leave its map dark (on the golden data: 0.3 instead of 1).
    """
    weights = gradients[:, 1:].mean(dim=1)  # (k, D)
    cams = torch.relu(weights @ activation[1:].T)  # (k, N)
    return min_max(min_max(cams.view(-1, *grid)))
