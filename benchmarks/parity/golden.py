"""The parts of a golden folder of CLIP-ES and MaskCLIP's pip package."""

from benchmarks.parity.parts import Parts

PARTS: Parts = {}
