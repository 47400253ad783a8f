"""`python -m clip_pseudo_masks` is `pseudo-masks`; so is `torchrun -m clip_pseudo_masks`."""

import sys

from clip_pseudo_masks.console import main

if __name__ == "__main__":
    sys.exit(main())
