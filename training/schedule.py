"""The learning rate of a 0-based iteration."""

import math

WARMUP_START = 1e-6  # share of the rate at which the warm-up of `polynomial` begins


def polynomial(iteration: int, base: float, total: int, power: float, least: float = 0.0, warmup: int = 0) -> float:
    """A power of what is left of the run, from `base` to `least`, and a linear warm-up over it.

    power  0.9 for DeepLab, 1 for SegFormer
    """
    rate = (base - least) * (1 - iteration / total) ** power + least
    if iteration >= warmup:
        return rate
    return rate * (1 - (1 - iteration / warmup) * (1 - WARMUP_START))


def held_cosine(iteration: int, base: float, total: int, warmup: int, factor: float) -> float:
    """A constant `factor` of `base` at first, then what half a cosine over the whole run has there (CoOp)."""
    return base * factor if iteration < warmup else base * (1 + math.cos(math.pi * iteration / total)) / 2


def cosine(iteration: int, base: float, total: int, final_share: float, warmup: int) -> float:
    """A linear warm-up to `base`, then half a cosine down to `final_share` of it."""
    if iteration < warmup:
        return base * (iteration + 1) / warmup
    along = (iteration - warmup) / max(1, total - warmup)
    return base * (final_share + (1 - final_share) * (1 + math.cos(math.pi * along)) / 2)


def warm_cosine(iteration: int, base: float, total: int, warmup: float) -> float:
    """A linear warm-up to `base` over a share of the run, then half a cosine down to 0, as SegCLIP's published code.

    Both are of the share of the run that is done after the iteration, so that the last rate is 0.
    """
    done = (iteration + 1) / total
    if done < warmup:
        return base * done / warmup
    return base * (1 + math.cos(math.pi * (done - warmup) / max(1 - warmup, 1e-9))) / 2
