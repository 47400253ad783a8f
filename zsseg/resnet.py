"""The ResNets under MaskFormer with detectron2's names: R50, and R101c, whose stem has three convolutions.

Batch norms are frozen: their statistics and factors are constants of a pretrained backbone.
"""

from collections.abc import Callable

from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

STAGES = ("res2", "res3", "res4", "res5")
GRID = (1, 2, 4)  # dilations of the blocks of res5 after a stem of three convolutions (DeepLab's multi-grid)

Norm = Callable[[int], nn.Module]


class NormConv(nn.Conv2d):
    """A convolution without bias and its norm, `norm`; padded to keep the grid, or what the stride leaves of it."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        norm: Norm = FrozenBatchNorm2d,
        stride: int = 1,
        dilation: int = 1,
    ) -> None:
        padding = dilation * (kernel // 2)
        super().__init__(inputs, outputs, kernel, stride, padding, dilation, bias=False)
        self.norm = norm(outputs)

    def forward(self, values: Tensor) -> Tensor:
        return self.norm(super().forward(values))


class Stem(nn.Module):
    """(B, 3, H, W) to a quarter of the grid.

    width  channels of the first convolution, 7x7; or, when `deep`, of three of 3x3, the last with twice as many
    """

    def __init__(self, width: int, deep: bool, norm: Norm) -> None:
        super().__init__()
        self.conv1 = NormConv(3, width, 3 if deep else 7, norm, stride=2)
        if deep:
            self.conv2 = NormConv(width, width, 3, norm)
            self.conv3 = NormConv(width, 2 * width, 3, norm)
        self.pool = nn.MaxPool2d(3, stride=2, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        values = images
        for conv in (layer for layer in self.children() if isinstance(layer, NormConv)):
            values = conv(values).relu()
        return self.pool(values)


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions around a shortcut; the stride is the 3x3's."""

    def __init__(self, inputs: int, width: int, norm: Norm, stride: int = 1, dilation: int = 1) -> None:
        super().__init__()
        outputs = 4 * width
        if stride > 1 or inputs != outputs:
            self.shortcut: nn.Module = NormConv(inputs, outputs, 1, norm, stride)
        else:
            self.shortcut = nn.Identity()
        self.conv1 = NormConv(inputs, width, 1, norm)
        self.conv2 = NormConv(width, width, 3, norm, stride, dilation)
        self.conv3 = NormConv(width, outputs, 1, norm)

    def forward(self, values: Tensor) -> Tensor:
        within = self.conv2(self.conv1(values).relu()).relu()
        return (self.conv3(within) + self.shortcut(values)).relu()


class ResNet(nn.Module):
    """(B, 3, H, W) normalised images to the features of STAGES, on a 4th, 8th, 16th and 32nd of the grid.

    width   channels of the stem, 64 as published; a stage's outputs have 4, 8, 16 and 32 times as many
    blocks  of each stage
    deep    a stem of three convolutions (R101c); res5 is dilated then
    norm    of the number of channels; frozen batch norms as published
    """

    def __init__(self, width: int, blocks: tuple[int, ...], deep: bool, norm: Norm = FrozenBatchNorm2d) -> None:
        super().__init__()
        self.stem = Stem(width, deep, norm)
        self.channels = [4 * width * 2**index for index in range(len(STAGES))]
        inputs = 2 * width if deep else width
        for index, (name, outputs) in enumerate(zip(STAGES, self.channels)):
            layers = []
            for block in range(blocks[index]):
                dilation = GRID[block % len(GRID)] if deep and name == "res5" else 1
                stride = 2 if block == 0 and index else 1
                layers.append(Bottleneck(inputs, outputs // 4, norm, stride, dilation))
                inputs = outputs
            self.add_module(name, nn.Sequential(*layers))
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> list[Tensor]:
        values, features = self.stem(images), []
        for name in STAGES:
            values = self.get_submodule(name)(values)
            features.append(values)
        return features
