"""The parts of a golden folder of zsseg: text, regions, networks, prompts, data."""

from benchmarks.parity.parts import Parts

PARTS: Parts = {}
