"""Views of images: sizes, the crop, the padding, and that image and labels stay together."""

from math import floor

import numpy as np

from zsseg.training.augment import Views, nearest, view


def marked(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """An image whose red is 40 where the label is 3, else 200."""
    labels = np.full((height, width), 255, np.uint8)
    labels[height // 3 : 2 * height // 3, width // 4 : width // 2] = 3
    image = np.zeros((height, width, 3), np.uint8)
    image[..., 0] = np.where(labels == 3, 40, 200)
    return image, labels


def test_labels_are_taken_by_pytorchs_rule() -> None:
    labels = np.random.default_rng(0).integers(0, 9, (37, 53), dtype=np.uint8)
    rows = [floor(np.float32(index) * np.float32(37 / 64)) for index in range(64)]
    columns = [floor(np.float32(index) * np.float32(53 / 91)) for index in range(91)]
    assert np.array_equal(nearest(labels, (64, 91)), labels[rows][:, columns])


def test_a_view_is_a_padded_square_of_a_drawn_size() -> None:
    image, labels = marked(60, 90)
    sizes = set()
    for seed in range(30):
        views = Views((30, 50), 2048, 64, colours=False)
        found, truth = view(image, labels, views, np.random.default_rng(seed))
        assert found.shape == (64, 64, 3) and truth.shape == (64, 64)
        inside = found[..., 2] == 0
        rows, columns = inside.any(1).sum(), inside.any(0).sum()
        sizes.add((int(rows), int(columns)))
        assert (found[~inside] == 128).all() and (truth[~inside] == 255).all()
        clear = inside & ((found[..., 0] == 40) | (found[..., 0] == 200))  # away from the edges
        assert np.array_equal(found[clear][:, 0] == 40, truth[clear] == 3)
    assert sizes == {(30, 45), (50, 64)}


def test_the_long_side_is_bounded() -> None:
    found, _ = view(*marked(40, 160), Views((40,), 80, 96, flip=False, colours=False), np.random.default_rng(0))
    inside = found[..., 2] == 0
    assert inside.any(1).sum() == 20 and inside.any(0).sum() == 80
