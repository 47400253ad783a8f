"""The backbones, against torchvision's ResNet with the same weights, and the grids of their features."""

import pytest
import torch
from torch import nn
from torchvision.models.resnet import Bottleneck
from torchvision.models.resnet import ResNet as TorchvisionResNet
from torchvision.ops import FrozenBatchNorm2d

from zsseg.pretrained import detectron2_names
from zsseg.resnet import ResNet


def test_the_plain_one_is_torchvisions() -> None:
    torch.manual_seed(0)
    theirs = TorchvisionResNet(Bottleneck, [1, 2, 1, 1], norm_layer=FrozenBatchNorm2d).eval()
    for layer in theirs.modules():
        if isinstance(layer, FrozenBatchNorm2d):
            for values in (layer.weight, layer.running_var):
                values.uniform_(0.5, 1.5)
            layer.bias.normal_()
            layer.running_mean.normal_()
    ours = ResNet(64, (1, 2, 1, 1), deep=False)
    ours.load_state_dict(detectron2_names(theirs.state_dict()))
    values = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        found = ours(values)
        values = theirs.maxpool(theirs.relu(theirs.bn1(theirs.conv1(values))))
        for stage, feature in zip((theirs.layer1, theirs.layer2, theirs.layer3, theirs.layer4), found, strict=True):
            values = stage(values)
            torch.testing.assert_close(feature, values, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("deep", [False, True])
def test_features_lie_on_four_grids(deep: bool) -> None:
    network = ResNet(4, (1, 1, 1, 3), deep)
    shapes = [tuple(feature.shape) for feature in network(torch.zeros(2, 3, 96, 64))]
    assert shapes == [(2, 16 * 2**k, 24 // 2**k, 16 // 2**k) for k in range(4)]
    dilations = [layer.dilation[0] for layer in network.get_submodule("res5").modules() if isinstance(layer, nn.Conv2d)]
    assert [dilation for dilation in dilations if dilation > 1] == ([2, 4] if deep else [])
    assert len([name for name, _ in network.named_parameters() if name.startswith("stem.")]) == (3 if deep else 1)
