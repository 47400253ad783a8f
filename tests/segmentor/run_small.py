"""scripts/train_segmentor.py in a process of its own, with the network of two convolutions as segformer-tiny.

transformers alone takes longer to import than such a network takes to train.
"""

import sys

from scripts import train_segmentor
from segmentor import networks
from tests.segmentor.small import SmallBody

if __name__ == "__main__":
    networks.ARCHES["segformer-tiny"] = SmallBody
    sys.exit(train_segmentor.main())
