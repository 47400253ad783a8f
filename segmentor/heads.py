"""What turns a network's features into scores, by name.

linear  one learned weight vector a label
text    features times the frozen text embeddings of the classes (MaskCLIP+: Zhou et al., 2022, section 3.3)
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

WIDEST = 2048  # of text embeddings; CLIPs have up to 1280, and a decoder takes memory with the square


class TextHead(nn.Module):
    """Features (B, D, h, w) times text embeddings to (B, C, h, w) scores; features as they are, no temperature.

    classes     K; their unit embeddings (K, D) are told by `know`, stay as they are, and are saved with the weights
    background  whether label 0 is the background: a vector more, which is learned, and of unit length when used
    """

    embeddings: Tensor

    def __init__(self, width: int, classes: int, background: bool) -> None:
        super().__init__()
        self.register_buffer("embeddings", torch.zeros(classes, width))
        self.background = nn.Parameter(torch.randn(1, width)) if background else None

    @torch.no_grad()
    def know(self, embeddings: Tensor) -> None:
        """Take over the (K, D) unit embeddings of the classes."""
        self.embeddings.copy_(embeddings)

    def vectors(self) -> Tensor:
        """(C, D) unit vectors by label."""
        if self.background is None:
            return self.embeddings
        return torch.cat([F.normalize(self.background, dim=-1), self.embeddings])

    def forward(self, features: Tensor) -> Tensor:
        return F.conv2d(features, self.vectors()[:, :, None, None])
