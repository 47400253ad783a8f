"""What PIL hands out may not be written to; the CRF takes it all the same, whichever backend it has."""

import numpy as np
import pytest
from PIL import Image

from pipeline.crf.dense_crf import BACKENDS, dense_crf


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("size", [(9, 14), (1, 1)])
def test_an_image_that_may_not_be_written_to_is_taken(size: tuple[int, int], backend: str) -> None:
    if backend == "pydensecrf":
        pytest.importorskip("pydensecrf.densecrf", reason="needs pydensecrf2, which needs a C++ compiler")
    rng = np.random.default_rng(0)
    pixels, probs = rng.integers(0, 256, (*size, 3), np.uint8), rng.random((3, *size), np.float32)
    frozen, from_pil, frozen_probs = pixels.copy(), np.asarray(Image.fromarray(pixels)), probs.copy()
    frozen.flags.writeable = frozen_probs.flags.writeable = False
    wanted = dense_crf(pixels.copy(), probs.copy(), backend=backend)
    for image in (frozen, from_pil):
        assert not image.flags.writeable
        np.testing.assert_array_equal(dense_crf(image, frozen_probs, backend=backend), wanted)
        np.testing.assert_array_equal(image, pixels)
