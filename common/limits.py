"""Limits of images. Imports nothing, so that `--help` is quick."""

# Photographs take some 220 bytes a pixel in the CRF, noise up to 430: two photos of this size side by side, and the
# program, stay near 2 GB. CLIP itself sees 1 million (--max_side 1024), and the CRF was tuned on 0.2 million.
MAX_PIXELS = 3_000_000
