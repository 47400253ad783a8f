"""The parts of a golden folder of zsseg: text, regions, networks, prompts, data."""

from benchmarks.parity.parts import Parts
from benchmarks.parity.zsseg import data, network, prompts, regions

PARTS: Parts = {**regions.PARTS, **network.PARTS, **prompts.PARTS, **data.PARTS}
