"""Probabilities of one image by a trained network."""

import cv2
import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from segmentor.augment import fitted, normalised
from segmentor.networks import enlarged
from segmentor.settings import InferenceSettings

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@torch.inference_mode()
def probabilities(network: nn.Module, image: np.ndarray, inference: InferenceSettings) -> np.ndarray:
    """(H, W, 3) uint8 RGB to (C, H, W) float32, summing to 1 over C: the mean of the softmax of every look."""
    device, dtype = next(network.parameters()).device, DTYPES[inference.precision]
    size = (image.shape[0], image.shape[1])
    total = torch.zeros((), device=device)
    for scale in inference.scales:
        height, width = fitted(size, inference.resize, scale)
        sized = image if (height, width) == size else cv2.resize(image, (width, height))
        look = torch.from_numpy(normalised(sized, inference.normalisation).copy())[None].to(device)
        for mirrored in (False, True) if inference.flip else (False,):
            batch = look.flip(-1) if mirrored else look
            with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
                scores = network(batch)
            scores = F.interpolate(enlarged(scores, batch), size=size, mode="bilinear", align_corners=False)[0]
            total = total + (scores.flip(-1) if mirrored else scores).softmax(0)
    return (total / (len(inference.scales) * (1 + inference.flip))).cpu().numpy()
