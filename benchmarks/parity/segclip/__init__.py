"""The parts of a golden folder of SegCLIP: text, windows, evaluation, superpixels, training."""

from benchmarks.parity.parts import Parts

PARTS: Parts = {}
