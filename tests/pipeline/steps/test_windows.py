"""Windows against a loop over pixels."""

import pytest
import torch

from pipeline.steps.windows import slide, window_places


def test_places_as_mmsegmentation_counts_them() -> None:
    assert window_places((224, 299), 224, 224) == [(0, 0, 224, 224), (0, 75, 224, 299)]
    assert window_places((5, 9), 4, 2) == [
        (top, left, top + 4, left + 4) for top in (0, 1) for left in (0, 2, 4, 5)
    ]  # fmt: skip
    assert window_places((3, 9), 4, 4) == [(0, 0, 3, 4), (0, 4, 3, 8), (0, 5, 3, 9)]  # a side that is too short
    assert window_places((30, 20), 0, 4) == [(0, 0, 30, 20)]


@pytest.mark.parametrize("together", [1, 3, 100])
def test_every_pixel_is_the_mean_of_its_windows(together: int) -> None:
    images = torch.rand(2, 3, 7, 11, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def score(windows: torch.Tensor) -> torch.Tensor:  # depends on the window as a whole, and on the place in it
        place = torch.arange(windows[0, 0].numel(), dtype=torch.float64).view(windows.shape[-2:])
        return torch.stack([windows.mean(dim=(1, 2, 3))[:, None, None] * place, windows[:, 0]], dim=1)

    found = slide(images, 4, 3, score, together)
    for index, image in enumerate(images):
        for row in range(7):
            for column in range(11):
                values = [
                    score(image[None, :, top:bottom, left:right])[0, :, row - top, column - left]
                    for top, left, bottom, right in window_places((7, 11), 4, 3)
                    if top <= row < bottom and left <= column < right
                ]
                assert torch.allclose(found[index, :, row, column], torch.stack(values).mean(dim=0))


def test_a_window_larger_than_the_image_is_the_image() -> None:
    images = torch.rand(1, 3, 5, 6)
    assert torch.equal(slide(images, 10, 5, lambda windows: windows), images)
