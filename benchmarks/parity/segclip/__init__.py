"""The parts of a golden folder of SegCLIP: text, windows, evaluation, superpixels, training."""

from benchmarks.parity.parts import Parts
from benchmarks.parity.segclip import evaluation

PARTS: Parts = {**evaluation.PARTS}
