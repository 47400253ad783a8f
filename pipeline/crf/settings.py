"""The settings of the DenseCRF, and what it can work on."""

from dataclasses import dataclass

LEAST_PROBABILITY = 1e-5  # of a unary (docs/methods.md 1.6)
MAX_LABELS = 256
MAX_FEATURE = 1 << 20  # float32 cannot tell the corners around larger features apart


@dataclass(frozen=True)
class CrfSettings:
    """Mean-field iterations, standard deviations in pixels (sxy) and grey levels (srgb), and Potts weights.

    The defaults are those of Kraehenbuehl's library, which CLIP-ES uses (docs/methods.md 1.6).
    """

    iterations: int = 10
    gaussian_sxy: float = 1
    gaussian_compat: float = 3
    bilateral_sxy: float = 67
    bilateral_srgb: float = 3
    bilateral_compat: float = 4

    def __post_init__(self) -> None:
        if self.iterations < 0:
            raise ValueError(f"iterations must not be negative, got {self.iterations}")
        for name in ("gaussian_sxy", "bilateral_sxy", "bilateral_srgb"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")


def check_fineness(height: int, width: int, settings: CrfSettings) -> None:
    """Raise ValueError where standard deviations are too small for an image of this size to be put on a lattice."""
    place = (max(height, width) - 1) / min(settings.gaussian_sxy, settings.bilateral_sxy)
    if max(place, 255 / settings.bilateral_srgb) > MAX_FEATURE:
        raise ValueError("the standard deviations are too small for this image: the lattice is too fine to be numbered")


DEFAULTS = CrfSettings()
