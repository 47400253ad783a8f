"""Limits of images. Imports nothing, so that `--help` is quick."""

# Photographs take some 220 bytes a pixel in the CRF, noise up to 430: two photos of this size side by side, and the
# program, stay near 2 GB. CLIP itself sees 1 million (--max_side 1024), and the CRF was tuned on 0.2 million.
MAX_PIXELS = 3_000_000

# Labels that compete for a pixel, the background among them, up to which MAX_PIXELS counts pixels alone. Of more labels
# an image is as much smaller: the probabilities of all its pixels never take more memory than this many labels do.
MANY_LABELS = 22


def most_pixels(max_pixels: int, labels: int) -> int:
    """The pixels that an image may have at which `labels` labels compete; `max_pixels` up to MANY_LABELS labels."""
    return max(1, max_pixels * MANY_LABELS // max(labels, MANY_LABELS))
