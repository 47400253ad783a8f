"""The parts of a golden folder of SCLIP, NACLIP, ClearCLIP and their kin."""

from benchmarks.parity.parts import Parts

PARTS: Parts = {}
