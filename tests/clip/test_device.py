"""Which device a worker gets; GPUs are only pretended."""

import pytest
import torch

from clip.device import pick_device
from common.errors import UserError


@pytest.mark.parametrize("name", ["auto", "cuda"])
def test_workers_are_spread_over_the_gpus(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    assert [pick_device(name, worker).index for worker in range(5)] == [0, 1, 2, 0, 1]


def test_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert pick_device("auto", 3) == torch.device("cpu") == pick_device("cpu", 3)


@pytest.mark.parametrize("name", ["cuda:99", "gpu", ""])
def test_a_device_that_is_not_there_is_one_line(name: str) -> None:
    with pytest.raises(UserError, match="not available on this machine"):
        pick_device(name)
