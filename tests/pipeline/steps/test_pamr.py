"""PAMR of many channels, and on another device; its formula is checked in test_dense_classes.py."""

import torch

from pipeline.steps.pamr import CHANNELS, pamr


def test_channels_do_not_depend_on_each_other() -> None:
    """Bit for bit, however many go together."""
    generator = torch.Generator().manual_seed(0)
    scores = torch.rand(2, 2 * CHANNELS + 3, 20, 26, generator=generator)
    image = torch.rand(2, 3, 20, 26, generator=generator)
    found = pamr(scores, image, steps=2)
    for channel in range(scores.shape[1]):
        assert torch.equal(found[:, channel], pamr(scores[:, [channel]], image, steps=2)[:, 0])


def test_every_tensor_is_made_on_the_device() -> None:
    found = pamr(torch.zeros(1, 19, 30, 40, device="meta"), torch.zeros(1, 3, 30, 40, device="meta"))
    assert found.device.type == "meta" and found.shape == (1, 19, 30, 40)
