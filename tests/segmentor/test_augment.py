"""Views of images: sizes, crops, padding, colours."""

import numpy as np
import pytest

from segmentor import augment
from segmentor.augment import cropped, fitted, mixed, normalised, view
from segmentor.settings import Views


@pytest.mark.parametrize(
    ("size", "box", "found"),
    [((375, 500), (2048, 512), (512, 683)), ((520, 520), (520, 520), (520, 520)), ((375, 500), (520, 520), (390, 520)),
     ((375, 500), (2048, 224), (224, 299))],
)  # fmt: skip
def test_fitted_into_a_box_as_published(size: tuple[int, int], box: tuple[int, int], found: tuple[int, int]) -> None:
    assert fitted(size, box, 1.0) == found
    assert fitted((100, 33), None, 0.5) == (50, 17) and fitted((2, 1), None, 0.1) == (1, 1)  # of the image itself


def marked(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """An image whose red and green tell row and column, and labels that are their sum modulo 7."""
    rows, columns = np.indices((height, width))
    image = np.stack([rows, columns, np.zeros_like(rows)], axis=-1).astype(np.uint8)
    return image, ((rows + columns) % 7).astype(np.uint8)


def test_image_and_labels_are_cut_and_mirrored_together() -> None:
    image, labels = marked(90, 120)
    views = Views(crop=40, scales=(1.0, 1.0), colours=False)
    mean, deviation = (np.array(values) for values in augment.NORMALISATIONS["imagenet"])
    places = set()
    for seed in range(8):
        tensor, truth = view(image, labels, views, np.random.default_rng(seed))
        assert tensor.shape == (3, 40, 40) and tensor.dtype == np.float32
        assert truth.shape == (40, 40) and truth.dtype == np.int64
        back = np.rint(tensor.transpose(1, 2, 0) * deviation + mean).astype(int)
        assert np.array_equal(truth, (back[..., 0] + back[..., 1]) % 7)
        places.add((back[0, 0, 0], back[0, 0, 1] < back[0, 1, 1]))
    assert len(places) > 4 and {mirrored for _, mirrored in places} == {True, False}


def test_small_images_are_padded_below_and_right() -> None:
    image, labels = marked(20, 30)
    tensor, truth = view(
        image, labels, Views(crop=40, scales=(1.0, 1.0), flip=False, colours=False), np.random.default_rng(0)
    )
    assert np.array_equal(truth[:20, :30], labels)
    assert (truth[20:] == 255).all() and (truth[:, 30:] == 255).all()
    assert not tensor[:, 20:].any() and not tensor[:, :, 30:].any() and tensor[:, :20, :30].all()


def test_mixed_ignores_255() -> None:
    labels = np.full((10, 10), 255, np.uint8)
    labels[0, :4] = 1
    assert not mixed(labels)
    labels[0, 4:6] = 2
    assert mixed(labels)  # 4 of 6
    labels[1, :4] = 1
    assert not mixed(labels)  # 8 of 10


def test_crops_of_one_label_are_drawn_again() -> None:
    """A label in one corner only: most crops are plain, and of ten tries at least one of most views is not."""
    labels = np.zeros((100, 100), np.uint8)
    labels[40:60, 40:60] = 1
    image = np.zeros((100, 100, 3), np.uint8)
    found = [mixed(cropped(image, labels, 30, np.random.default_rng(seed))[1]) for seed in range(60)]
    once = []
    for seed in range(60):
        top, left = (int(value) for value in np.random.default_rng(seed).integers(71, size=2))
        once.append(mixed(labels[top : top + 30, left : left + 30]))
    assert sum(found) > 2 * sum(once) > 0


def test_labels_are_resized_without_new_values() -> None:
    image, labels = marked(31, 47)
    labels[labels == 3] = 255
    _, truth = view(image, labels, Views(crop=80, scales=(1.6, 1.6)), np.random.default_rng(0))
    assert set(np.unique(truth[:50, :75])) == set(np.unique(labels)) and (truth[50:] == 255).all()


@pytest.mark.parametrize("name", ["imagenet", "clip"])
def test_normalisation(name: str) -> None:
    """torchvision's constants, on the scale 0..1."""
    unit = {
        "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        "clip": ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
    }[name]
    image = np.random.default_rng(0).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    found = normalised(image, name)
    for channel in range(3):
        expected = (image[..., channel] / 255 - unit[0][channel]) / unit[1][channel]
        np.testing.assert_allclose(found[channel], expected, atol=2e-5)


# --- colours --------------------------------------------------------------------------------------
