"""The CRF's backend torch: its lattice and filter against plain Python, its results against the library.

Also that a batch gives the bits that each image alone gives: sums run in an order that depends on nothing else.
"""

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from common.errors import UserError
from pipeline.crf.crf_torch import chunks, infer_arrays
from pipeline.crf.dense_crf import dense_crf, dense_crf_batch, reference_image
from pipeline.crf.lattice import code_digits
from pipeline.crf.lattice_torch import PIECE, Lattice, build
from pipeline.crf.meanfield_torch import gaussian_filter, infer
from pipeline.crf.settings import CrfSettings
from tests.naive_lattice import features_of, filtered, links, mean_field, simplices, softmax
from tests.pipeline.crf.test_dense_crf import cam_probs, constant_image, random_image, random_probs, smooth_image

DEFAULT = CrfSettings()
ALL = 1 << 40  # values at once: everything in one batch
SIZES = [(1, 1), (1, 2), (1, 13), (17, 1), (2, 3), (7, 9), (21, 19), (40, 50)]  # (H, W)
Pair = tuple[np.ndarray, np.ndarray]

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU that PyTorch can use (CUDA)")


def library(image: np.ndarray, probs: np.ndarray, settings: CrfSettings = DEFAULT) -> np.ndarray:
    pytest.importorskip("pydensecrf.densecrf", reason="needs pydensecrf2, which needs a C++ compiler")
    return dense_crf(image, probs, settings, backend="pydensecrf")


def assert_agree(ours: np.ndarray, theirs: np.ndarray) -> None:
    assert (ours.shape, ours.dtype) == (theirs.shape, np.float32)
    assert np.abs(ours - theirs).max() <= 1e-3
    assert (ours.argmax(axis=0) == theirs.argmax(axis=0)).mean() >= 0.9999


def mixed_pairs() -> list[Pair]:
    """Images of many sizes, kinds and numbers of labels, in no order; the constant one has vertices of many pixels."""
    makers = [random_image, smooth_image, constant_image]
    labels = [3, 1, 6, 2, 11, 4, 2, 3]
    pairs = [(makers[i % 3](*size), cam_probs(k, *size) if k > 1 else random_probs(1, *size))
             for i, (size, k) in enumerate(zip(SIZES, labels))]  # fmt: skip
    return [*pairs, (constant_image(30, 40), cam_probs(5, 30, 40))]


def together(features: list[np.ndarray], device: str = "cpu") -> Lattice:
    """The lattice of several images' features (d, n), each filled up with zeros."""
    filled = [np.pad(each, ((0, 0), (0, -each.shape[1] % 4))) for each in features]
    owners = np.repeat(np.arange(len(filled)), [each.shape[1] for each in filled])
    places = np.concatenate([np.arange(each.shape[1]) >= given.shape[1] for each, given in zip(filled, features)])
    points = np.concatenate(filled, axis=1)
    arrays = (torch.from_numpy(array).to(device) for array in (points, owners, places))
    return build(*arrays, code_digits(points))


def random_features(dims: int, count: int, spread: float = 4) -> np.ndarray:
    return np.random.default_rng(dims * count).random((dims, count), np.float32) * np.float32(spread)


def linked(lattice: Lattice, axis: int) -> set[tuple[int, int]]:
    """Pairs of a vertex and its neighbour; both directions must tell the same."""
    following, preceding = lattice.neighbours[axis].tolist()
    pairs = {(one, other) for one, other in enumerate(following) if other < len(following) - 1}
    assert pairs == {(one, other) for other, one in enumerate(preceding) if one < len(preceding) - 1}
    return pairs


@pytest.mark.parametrize("spread", [0.5, 4, 60])
@pytest.mark.parametrize("dims", [2, 3, 5])
def test_lattices_side_by_side_are_those_of_the_naive_lattice(dims: int, spread: float) -> None:
    given = [random_features(dims, count, spread) for count in (1, 64, 30, 7)]
    built, start, size, counts = together(given), 0, 0, [0] * (dims + 1)
    pairs = [linked(built, axis) for axis in range(dims + 1)]
    for features in given:
        pixels, vertices = simplices(features)
        ids = built.vertices[start : start + len(pixels)].tolist()
        weights = built.weights[start : start + len(pixels)].tolist()
        number = {key: v for corners, row in zip(pixels, ids) for (key, _), v in zip(corners, row)}
        assert len(set(number.values())) == len(number)
        assert ids == [[number[key] for key, _ in corners] for corners in pixels]
        assert weights == [[float(weight) for _, weight in corners] for corners in pixels]
        for axis in range(dims + 1):
            expected = list(links(vertices, axis))
            counts[axis] += len(expected)
            assert pairs[axis] >= {(number[a], number[b]) for a, b in expected if a in number and b in number}
        start, size = start + len(pixels) + -len(pixels) % 4, size + len(vertices)
    assert built.neighbours.shape == (dims + 1, 2, size + 1)
    assert [len(each) for each in pairs] == counts


def dark_image(height: int, width: int) -> np.ndarray:
    """Nearly black: the zeros that fill up the last four pixels lie near its pixels, and blur passes their vertices."""
    return np.random.default_rng(height).integers(1, 5, (height, width, 3), np.uint8)


def test_the_zeros_that_fill_up_an_image_pass_on_what_is_blurred_as_in_the_library() -> None:
    """The naive filter fills up as the library does; without it, or with other values, Q differs by more than 1e-3."""
    settings = CrfSettings(iterations=2, gaussian_sxy=1, bilateral_sxy=4, bilateral_srgb=3, bilateral_compat=6)
    images = [dark_image(3, 3), dark_image(2, 5), dark_image(1, 7)]
    probs = [random_probs(3, *image.shape[:2]) for image in images]
    compats = [settings.gaussian_compat, settings.bilateral_compat]
    for image, given, q in zip(images, probs, infer_arrays(images, probs, settings, "cpu", ALL)):
        kernels = [features_of(image, settings.gaussian_sxy), features_of(image, settings.bilateral_sxy, 3)]
        log_probs = np.log(given.reshape(3, -1))
        expected = mean_field(log_probs, kernels, compats, 2).reshape(given.shape)
        assert q == pytest.approx(expected, abs=2e-5)
        assert dense_crf(image, given, settings) == pytest.approx(expected, abs=2e-5)


def test_ties_are_broken_as_in_the_naive_lattice() -> None:
    grid = np.stack(np.meshgrid(np.arange(9), np.arange(7))).reshape(2, -1).astype(np.float32)
    for features in (grid, grid * 0):
        expected = [[float(weight) for _, weight in corners] for corners in simplices(features)[0]]
        assert together([features]).weights[: len(expected)].tolist() == expected


@pytest.mark.parametrize("counts", [[1], [PIECE], [PIECE + 1, 2], [1, 5, 3 * PIECE, 40 * PIECE**2 + 1, 7]])
def test_pixels_that_share_all_vertices_are_averaged_however_many(counts: list[int]) -> None:
    """Long sums are made of short runs. What each pixel gets of its image, filtered, is the mean over the image."""
    lattice = together([np.zeros((2, count), np.float32) for count in counts])
    assert all(offsets.diff().max() <= PIECE for offsets in lattice.sums)
    filled = [count + -count % 4 for count in counts]
    log_probs = torch.from_numpy(np.random.default_rng(0).normal(0, 2, (3, sum(filled))).astype(np.float32))
    q = infer(log_probs, [gaussian_filter(lattice)], [3.0], 1)
    for own, got, count in zip(log_probs.split(filled, dim=1), q.split(filled, dim=1), counts):
        given = own[:, :count].double().numpy()
        expected = softmax(given + 3 * softmax(given).mean(axis=1, keepdims=True))
        assert got[:, :count].numpy() == pytest.approx(expected, abs=2e-6)


@pytest.mark.parametrize("dims", [2, 5])
def test_filters_of_ones_are_those_of_the_naive_lattice(dims: int) -> None:
    given = [random_features(dims, count) for count in (30, 1, 64)]
    of_ones = gaussian_filter(together(given)).of_ones
    for features, start in zip(given, (0, 32, 36)):
        count = features.shape[1]
        assert of_ones[start : start + count].numpy() == pytest.approx(filtered(features, np.ones(count)), abs=2e-6)


@pytest.mark.parametrize("labels", [1, 2, 6, 9, 10, 21])
def test_two_iterations_are_those_of_naive_filters(labels: int) -> None:
    kernels, compats = [random_features(2, 44), random_features(5, 44)], [3.0, 0.7]
    log_probs = np.log(np.random.default_rng(labels).random((labels, 44), np.float32) + np.float32(1e-3))
    expected = mean_field(log_probs, kernels, compats, 2)
    filters = [gaussian_filter(together([features])) for features in kernels]
    assert infer(torch.from_numpy(log_probs), filters, compats, 2).numpy() == pytest.approx(expected, abs=2e-5)


def test_a_label_that_a_pixel_cannot_have_gets_nothing() -> None:
    log_probs = torch.zeros(4, 32)
    log_probs[1:3, 10:20] = log_probs[3] = -torch.inf
    q = infer(log_probs, [gaussian_filter(together([random_features(2, 32)]))], [3.0], 2)
    assert torch.equal(q == 0, log_probs.isinf())
    assert q.sum(dim=0).numpy() == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("labels", [1, 2, 3, 4, 5, 6])
@pytest.mark.parametrize("size", SIZES)
def test_agrees_with_the_library(size: tuple[int, int], labels: int) -> None:
    for make_image in (random_image, smooth_image, constant_image):
        image, probs = make_image(*size), random_probs(labels, *size)
        assert_agree(dense_crf(image, probs, backend="torch"), library(image, probs))


@pytest.mark.parametrize("labels", [2, 4])
def test_agrees_with_the_library_on_maps_as_they_come(labels: int) -> None:
    rgb, probs = smooth_image(41, 50), cam_probs(labels, 41, 50)
    for image in (rgb, reference_image(rgb)):
        assert_agree(dense_crf(image, probs, backend="torch"), library(image, probs))


@pytest.mark.parametrize(
    "settings",
    [
        CrfSettings(iterations=0),
        CrfSettings(iterations=1),
        CrfSettings(gaussian_sxy=3, gaussian_compat=1, bilateral_sxy=10, bilateral_srgb=1, bilateral_compat=10),
        CrfSettings(bilateral_sxy=30.5, bilateral_srgb=13.25),
    ],
)
def test_agrees_with_the_library_for_other_settings(settings: CrfSettings) -> None:
    image, probs = smooth_image(31, 43), cam_probs(4, 31, 43)
    assert_agree(dense_crf(image, probs, settings, backend="torch"), library(image, probs, settings))


def test_agrees_with_the_library_on_a_long_strip() -> None:
    image, probs, settings = smooth_image(2, 2001), cam_probs(3, 2, 2001), CrfSettings(bilateral_sxy=10)
    assert_agree(dense_crf(image, probs, settings, backend="torch"), library(image, probs, settings))


@pytest.fixture(scope="module")
def alone() -> list[np.ndarray]:
    """What each of the mixed pairs gives alone."""
    return [dense_crf(image, probs, backend="torch") for image, probs in mixed_pairs()]


@pytest.mark.parametrize("values_at_once", [None, 1, 20_000, ALL])
def test_a_batch_gives_the_bits_of_each_alone(alone: list[np.ndarray], values_at_once: int | None) -> None:
    images, probs = zip(*mixed_pairs())
    for order in (range(len(images)), range(len(images) - 1, -1, -1)):
        got = infer_arrays([images[i] for i in order], [probs[i] for i in order], DEFAULT, "cpu", values_at_once)
        assert [q.tobytes() for q in got] == [alone[i].tobytes() for i in order]
        assert [q.shape for q in got] == [probs[i].shape for i in order]


def test_a_batch_agrees_with_the_library() -> None:
    images, probs = zip(*mixed_pairs())
    for image, given, q in zip(images, probs, dense_crf_batch(images, probs)):
        assert_agree(q, library(image, given))


def test_the_number_of_threads_changes_no_bit() -> None:
    image, probs, threads = smooth_image(90, 120), cam_probs(5, 90, 120), torch.get_num_threads()
    try:
        results = []
        for count in (1, 3):
            torch.set_num_threads(count)
            results.append(dense_crf(image, probs, backend="torch").tobytes())
    finally:
        torch.set_num_threads(threads)
    assert results[0] == results[1]


def test_takes_views_and_arrays_that_must_not_be_written() -> None:
    image, probs = random_image(10, 13), cam_probs(3, 10, 13)
    expected = dense_crf(np.ascontiguousarray(image[..., ::-1]), probs, backend="torch")
    image.flags.writeable = False
    assert np.array_equal(dense_crf(image[..., ::-1], np.asfortranarray(probs), backend="torch"), expected)


def test_q_is_a_distribution_even_of_impossible_labels_in_a_batch() -> None:
    probs = random_probs(21, 14, 10)
    probs[:, :7] = 0
    probs[1, 7:] = 1
    for q in infer_arrays([random_image(14, 10)] * 2, [probs, probs[:2]], DEFAULT, "cpu", ALL):
        assert q.min() >= 0
        assert q.sum(axis=0) == pytest.approx(1, abs=1e-5)


def test_no_images_give_no_results() -> None:
    assert dense_crf_batch([], []) == []


def test_chunks_hold_as_much_as_is_asked_and_every_image_once() -> None:
    shapes = [(k, h, w) for k, h, w in [(2, 10, 10), (9, 10, 10), (4, 30, 10), (2, 5, 5), (3, 10, 10), (9, 90, 90)]]
    found = list(chunks(shapes, DEFAULT, 2000))
    assert sorted(i for chosen in found for i in chosen) == list(range(6))
    for chosen in found:
        pixels = sum(shapes[i][1] * shapes[i][2] for i in chosen)
        assert len(chosen) == 1 or pixels * max(shapes[i][0] for i in chosen) <= 2000
    assert len(found) < 6
    assert list(chunks(shapes, DEFAULT, ALL)) == [[0, 3, 4, 2, 1, 5]]


def fine_pairs() -> Iterator[Pair]:
    return ((random_image(9, 8 + i), random_probs(2, 9, 8 + i)) for i in range(3))


def test_images_that_do_not_fit_into_one_numbering_are_computed_apart() -> None:
    """Codes of 63 bits leave no bit for the number of the image."""
    settings = CrfSettings(bilateral_sxy=0.2, bilateral_srgb=0.05)
    images, probs = zip(*fine_pairs())
    assert list(chunks([p.shape for p in probs], settings, ALL)) == [[0], [1], [2]]
    got = infer_arrays(images, probs, settings, "cpu", ALL)
    for image, given, q in zip(images, probs, got):
        assert np.array_equal(q, dense_crf(image, given, settings, backend="torch"))
        assert np.abs(q - dense_crf(image, given, settings)).max() <= 1e-3


def test_a_lattice_of_more_images_than_can_be_numbered_is_refused() -> None:
    features = random_features(5, 8, 900)
    with pytest.raises(ValueError, match=r"too many for codes of \d+ bits"):
        together([features] * 4096)


def test_too_many_pixels_are_refused_before_anything_is_allocated() -> None:
    features = torch.zeros(5, 1).expand(5, 400_000_000)
    with pytest.raises(ValueError, match="too many"):
        build(
            features, torch.zeros(1, dtype=torch.int64), torch.zeros(1, dtype=torch.bool), code_digits(np.zeros((5, 1)))
        )


def test_one_image_too_fine_refuses_the_batch() -> None:
    with pytest.raises(ValueError, match="deviations are too small"):
        dense_crf_batch(*zip(*fine_pairs()), settings=CrfSettings(bilateral_srgb=0.004))


@pytest.mark.parametrize(
    ("image", "probs", "message"),
    [
        (np.zeros((4, 5), np.uint8), np.ones((2, 4, 5), np.float32), r"must be \(H, W, 3\) uint8"),
        (np.zeros((4, 5, 3), np.float32), np.ones((2, 4, 5), np.float32), r"must be \(H, W, 3\) uint8"),
        (np.zeros((4, 5, 3), np.uint8), np.ones((2, 5, 4), np.float32), "float32 for this image"),
        (np.zeros((4, 5, 3), np.uint8), np.ones((2, 4, 5), np.float64), "float32 for this image"),
        (np.zeros((4, 5, 3), np.uint8), np.ones((257, 4, 5), np.float32), "1 to 256 labels"),
        (np.zeros((0, 5, 3), np.uint8), np.ones((2, 0, 5), np.float32), "at least one pixel"),
        (np.zeros((4, 5, 3), np.uint8), np.full((2, 4, 5), np.nan, np.float32), "finite"),
        (np.zeros((4, 5, 3), np.uint8), np.full((2, 4, 5), np.inf, np.float32), "finite"),
    ],
)
def test_wrong_input_is_refused(image: np.ndarray, probs: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dense_crf(image, probs, backend="torch")


def test_lists_of_different_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="as many images as probs"):
        dense_crf_batch([constant_image(2, 2)], [random_probs(2, 2, 2)] * 2)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_device_that_is_not_there_is_told_in_one_line() -> None:
    for device in ("cuda", torch.device("cuda", 0)):
        with pytest.raises(UserError, match=r"--device cuda.*not available") as caught:
            dense_crf_batch([constant_image(2, 2)], [random_probs(2, 2, 2)], device=device)
        assert "\n" not in str(caught.value)


@needs_cuda
def test_a_gpu_agrees_with_the_library() -> None:
    images, probs = zip(*mixed_pairs())
    for image, given, q in zip(images, probs, dense_crf_batch(images, probs, device="cuda")):
        assert_agree(q, library(image, given))


@needs_cuda
def test_a_gpu_has_the_lattice_of_the_cpu() -> None:
    features = [features_of(image, 67, 3) for image, _ in mixed_pairs()]
    here, there = (together(features, device) for device in ("cpu", "cuda"))
    assert torch.equal(here.vertices, there.vertices.cpu())
    assert torch.equal(here.pixels, there.pixels.cpu())
    assert torch.equal(here.neighbours, there.neighbours.cpu())


@needs_cuda
def test_a_gpu_gives_the_q_of_the_cpu_but_for_rounding() -> None:
    images, probs = zip(*mixed_pairs())
    for here, there in zip(*(infer_arrays(images, probs, DEFAULT, device, ALL) for device in ("cpu", "cuda"))):
        assert there == pytest.approx(here, abs=1e-5)


@needs_cuda
def test_a_gpu_gives_the_same_bits_twice_and_in_a_batch() -> None:
    images, probs = zip(*mixed_pairs())
    first, again = (infer_arrays(images, probs, DEFAULT, "cuda", ALL) for _ in range(2))
    single = infer_arrays(images, probs, DEFAULT, "cuda", 1)
    assert [q.tobytes() for q in first] == [q.tobytes() for q in again]
    assert [q.tobytes() for q in first] == [q.tobytes() for q in single]
