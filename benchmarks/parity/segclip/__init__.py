"""The parts of a golden folder of SegCLIP: text, windows, evaluation, superpixels, training."""

from benchmarks.parity.parts import Parts
from benchmarks.parity.segclip import evaluation, pretraining

PARTS: Parts = {**evaluation.PARTS, **pretraining.PARTS}
