"""Which device a worker computes on. Torch is imported when one is picked: what runs without it may import this."""

from typing import TYPE_CHECKING

from common.errors import UserError

if TYPE_CHECKING:
    import torch


def pick_device(name: str, worker: int = 0) -> "torch.device":
    """The device for `--device NAME`; "auto" is a GPU when there is one, else the CPU.

    "auto" and "cuda" spread workers over the GPUs; "cuda:1" is that one for all of them.

    Raises UserError for a device this machine does not have.
    """
    import torch

    if name in ("auto", "cuda") and torch.cuda.is_available():
        return torch.device("cuda", worker % torch.cuda.device_count())
    if name == "auto":
        return torch.device("cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise UserError(f"--device {name}: not available on this machine; use auto or cpu") from error
    return device
