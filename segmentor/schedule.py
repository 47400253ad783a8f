"""The learning rate over the iterations."""

from dataclasses import dataclass

WARMUP_START = 1e-6  # share of the rate at which the warm-up begins


@dataclass(frozen=True)
class Schedule:
    """A power of what is left of the run, and a linear warm-up over it.

    base, least  rate at the start and at the end
    total        iterations
    power        0.9 for DeepLab, 1 for SegFormer
    warmup       iterations
    """

    base: float
    total: int
    power: float = 1.0
    least: float = 0.0
    warmup: int = 0

    def rate(self, iteration: int) -> float:
        """The rate of a 0-based iteration."""
        poly = (self.base - self.least) * (1 - iteration / self.total) ** self.power + self.least
        if iteration >= self.warmup:
            return poly
        return poly * (1 - (1 - iteration / self.warmup) * (1 - WARMUP_START))
