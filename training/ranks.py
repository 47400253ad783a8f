"""The processes that train together, as torchrun starts them."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn

from clip.device import pick_device
from common.errors import UserError

BY_TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True)
class Ranks:
    """This process among those of the run, and the device on which it computes."""

    device: torch.device
    index: int = 0
    count: int = 1

    @property
    def first(self) -> bool:
        """Whether this process is the one that writes."""
        return self.index == 0

    def sum(self, values: Tensor) -> Tensor:
        """The sum over all ranks of a tensor; without gradients."""
        if self.count > 1:
            values = values.detach().to(self.device, copy=True)
            dist.all_reduce(values)
        return values

    def gather(self, values: Tensor) -> Tensor:
        """The rows (B, ...) of all ranks, as many of each, in the order of the ranks; with gradients.

        The gradient of a rank's rows is the sum of what all ranks' losses give for them.
        """
        if self.count == 1:
            return values
        rows = values.new_zeros(self.count, *values.shape)
        return _Summed.apply(torch.cat([rows[: self.index], values[None], rows[self.index + 1 :]])).flatten(0, 1)

    def wait(self) -> None:
        """Go on when all ranks are here."""
        if self.count > 1:
            dist.barrier()

    def wrapped(self, network: nn.Module) -> nn.Module:
        """The network itself, or one whose gradients are averaged over the ranks and whose batch norms see them all."""
        if self.count == 1:
            return network
        if self.device.type == "cuda":
            network = nn.SyncBatchNorm.convert_sync_batchnorm(network)
            return nn.parallel.DistributedDataParallel(network, [self.device], broadcast_buffers=False)
        share_batch_norms(network)
        return nn.parallel.DistributedDataParallel(network, broadcast_buffers=False)


@contextmanager
def start_ranks(device: str) -> Iterator[Ranks]:
    """The ranks that torchrun started, with GPUs dealt out where there are some; one rank without torchrun."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield Ranks(pick_device(device))
        return
    missing = [name for name in BY_TORCHRUN if name not in os.environ]
    if missing:
        raise UserError(f"WORLD_SIZE is set but not {', '.join(missing)}; start several processes with torchrun")
    chosen = pick_device(device, int(os.environ["LOCAL_RANK"]))
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo")
    try:
        yield Ranks(chosen, dist.get_rank(), dist.get_world_size())
    finally:
        dist.destroy_process_group()


class _Summed(torch.autograd.Function):
    """The sum over all ranks; so is the gradient, as every rank's loss depends on every rank's input."""

    @staticmethod
    def forward(context: object, values: Tensor) -> Tensor:
        values = values.clone()
        dist.all_reduce(values)
        return values

    @staticmethod
    def backward(context: object, gradient: Tensor) -> Tensor:
        gradient = gradient.contiguous().clone()
        dist.all_reduce(gradient)
        return gradient


class SharedBatchNorm(nn.BatchNorm2d):
    """BatchNorm2d whose mean and variance in training are those of all ranks' images together."""

    def forward(self, values: Tensor) -> Tensor:
        if not self.training:
            return super().forward(values)
        assert self.running_mean is not None and self.running_var is not None
        assert self.num_batches_tracked is not None and self.momentum is not None
        across = (0, 2, 3)
        sums = _Summed.apply(torch.cat([values.sum(across), values.new_full((1,), values[:, 0].numel())]))
        mean, count = sums[:-1] / sums[-1], float(sums[-1])
        centred = values - mean[:, None, None]
        variance = _Summed.apply(centred.square().sum(across)) / count
        with torch.no_grad():  # running estimates as BatchNorm2d keeps them, of the unbiased variance
            self.num_batches_tracked.add_(1)
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * (count / max(1.0, count - 1)), self.momentum)
        scale = (variance + self.eps).rsqrt() * self.weight
        return centred * scale[:, None, None] + self.bias[:, None, None]


def share_batch_norms(network: nn.Module) -> None:
    """Make every BatchNorm2d of a network a SharedBatchNorm, in place; weights and names stay."""
    for module in network.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = SharedBatchNorm
