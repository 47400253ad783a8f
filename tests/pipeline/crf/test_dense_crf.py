"""pipeline.crf.dense_crf against Kraehenbuehl's library, the reference's labels, and what must hold of any CRF."""

import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from common.errors import UserError
from pipeline.crf.dense_crf import BACKENDS, dense_crf, reference_image
from pipeline.crf.settings import CrfSettings
from tests.naive_lattice import features_of

ROOT = Path(__file__).resolve().parents[3]
DEFAULT = CrfSettings()
SIZES = [(1, 1), (1, 2), (1, 13), (17, 1), (2, 3), (7, 9), (30, 41), (32, 32), (33, 35), (3, 150), (201, 5)]  # (H, W)


def random_image(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(height + width).integers(0, 256, (height, width, 3), np.uint8)


def smooth_image(height: int, width: int) -> np.ndarray:
    return cv2.resize(random_image(5, 6), (width, height), interpolation=cv2.INTER_CUBIC)


def constant_image(height: int, width: int) -> np.ndarray:
    return np.full((height, width, 3), 77, np.uint8)


def random_probs(labels: int, height: int, width: int) -> np.ndarray:
    return np.random.default_rng(labels).random((labels, height, width), np.float32)


def cam_probs(labels: int, height: int, width: int) -> np.ndarray:
    """Probabilities as CLIP-ES gives them: 1 - max cam, cams."""
    coarse = np.random.default_rng(labels).random((labels - 1, 9, 12), np.float32) ** 2
    cams = np.stack([cv2.resize(cam, (width, height), interpolation=cv2.INTER_CUBIC) for cam in coarse]).clip(0, 1)
    return np.concatenate([1 - cams.max(axis=0, keepdims=True), cams])


def mask(q: np.ndarray) -> np.ndarray:
    return np.where(q.max(axis=0) < 0.95, 255, q.argmax(axis=0))


def assert_agree(image: np.ndarray, probs: np.ndarray, settings: CrfSettings = DEFAULT) -> None:
    pytest.importorskip("pydensecrf.densecrf", reason="needs pydensecrf2, which needs a C++ compiler")
    ours, theirs = dense_crf(image, probs, settings), dense_crf(image, probs, settings, backend="pydensecrf")
    assert np.abs(ours - theirs).max() <= 1e-3
    assert (ours.argmax(axis=0) == theirs.argmax(axis=0)).mean() >= 0.9999
    assert (mask(ours) != mask(theirs)).sum() <= max(1, 1e-4 * image[..., 0].size)  # one may lie just at 0.95


@pytest.mark.parametrize("labels", [2, 3, 4, 6, 21])
@pytest.mark.parametrize("make_image", [random_image, smooth_image, constant_image])
@pytest.mark.parametrize("size", SIZES)
def test_agrees_with_the_library(size: tuple[int, int], make_image, labels: int) -> None:
    assert_agree(make_image(*size), random_probs(labels, *size))
    assert_agree(make_image(*size), cam_probs(labels, *size))


@pytest.mark.parametrize(
    "settings",
    [
        CrfSettings(iterations=1),
        CrfSettings(gaussian_sxy=3, gaussian_compat=1, bilateral_sxy=10, bilateral_srgb=1, bilateral_compat=10),
        CrfSettings(bilateral_sxy=30.5, bilateral_srgb=13.25),
    ],
)
def test_agrees_with_the_library_for_other_settings(settings: CrfSettings) -> None:
    assert_agree(smooth_image(61, 83), cam_probs(4, 61, 83), settings)


def test_agrees_with_the_library_on_a_long_strip() -> None:
    settings = CrfSettings(bilateral_sxy=10, bilateral_srgb=1)
    assert_agree(smooth_image(5, 4001), cam_probs(3, 5, 4001), settings)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("labels", "name"), [(2, "2007_000904"), (3, "2010_002137"), (6, "2007_003189"), (21, "2011_000548")]
)
def test_agrees_with_the_library_on_photos(labels: int, name: str, voc_mini: Path) -> None:
    image = reference_image(cv2.imread(str(voc_mini / "JPEGImages" / f"{name}.jpg"))[..., ::-1])
    assert_agree(image, cam_probs(labels, *image.shape[:2]))


@pytest.mark.slow
def test_agrees_with_the_library_above_a_million_vertices() -> None:
    from pipeline.crf.lattice import build

    image = random_image(481, 641)
    assert build(features_of(image, 67, 3)).size > 1 << 20
    assert_agree(image, cam_probs(2, 481, 641))


@pytest.mark.parametrize("backend", BACKENDS)
def test_one_label_is_certain(backend: str) -> None:
    if backend == "pydensecrf":
        pytest.importorskip("pydensecrf.densecrf", reason="needs pydensecrf2, which needs a C++ compiler")
    q = dense_crf(smooth_image(9, 7), random_probs(1, 9, 7), backend=backend)
    assert q.shape == (1, 9, 7)
    assert np.all(q == 1)


@pytest.mark.parametrize("labels", [2, 5, 256])
def test_equal_probabilities_stay_equal(labels: int) -> None:
    q = dense_crf(smooth_image(12, 11), np.full((labels, 12, 11), 0.3, np.float32))
    assert q == pytest.approx(1 / labels, rel=1e-3)


@pytest.mark.parametrize("labels", [2, 21, 256])
def test_q_is_a_distribution_even_of_impossible_labels(labels: int) -> None:
    probs = random_probs(labels, 14, 10)
    probs[:, :7] = 0
    probs[1, 7:] = 1
    q = dense_crf(random_image(14, 10), probs)
    assert (q.dtype, q.shape) == (np.float32, (labels, 14, 10))
    assert q.min() >= 0
    assert q.sum(axis=0) == pytest.approx(1, abs=1e-5)


def test_a_lone_pixel_yields_to_its_surroundings_but_not_across_an_edge() -> None:
    image = np.zeros((20, 20, 3), np.uint8)
    image[:, 10:] = 255
    probs = np.full((2, 20, 20), 0.1, np.float32)
    probs[0, :, :10] = probs[1, :, 10:] = 0.9
    probs[:, 10, 3] = 0.4, 0.6  # doubtful, amid label 0
    labels = dense_crf(image, probs).argmax(axis=0)
    assert np.all(labels[:, :10] == 0)
    assert np.all(labels[:, 10:] == 1)


def test_takes_views_and_leaves_its_input_alone() -> None:
    image, probs = random_image(10, 13), cam_probs(3, 10, 13)
    kept = probs.copy()
    expected = dense_crf(np.ascontiguousarray(image[..., ::-1]), probs)
    assert np.array_equal(dense_crf(image[..., ::-1], np.asfortranarray(probs)), expected)
    assert np.array_equal(probs, kept)


def test_the_second_image_of_a_size_is_as_the_first() -> None:
    image, probs = smooth_image(23, 29), cam_probs(3, 23, 29)
    first = dense_crf(image, probs)
    dense_crf(random_image(23, 29), random_probs(3, 23, 29))
    assert np.array_equal(dense_crf(image, probs), first)


def test_reference_image_subtracts_truncates_and_wraps() -> None:
    rgb = np.array([[[0, 0, 0], [122, 116, 104], [123, 117, 105], [255, 255, 255], [124, 118, 106]]], np.uint8)
    expected = [[[152, 140, 134], [0, 0, 0], [0, 0, 0], [150, 138, 132], [1, 1, 1]]]
    assert reference_image(rgb).tolist() == expected
    assert reference_image(np.array([[[10, 0, 255]]], np.uint8)).tolist() == [[[150, 140, 144]]]
    assert reference_image(rgb).dtype == np.uint8


@pytest.mark.parametrize(
    ("image", "probs", "message"),
    [
        (np.zeros((4, 5), np.uint8), np.ones((2, 4, 5), np.float32), "image must be"),
        (np.zeros((4, 5, 4), np.uint8), np.ones((2, 4, 5), np.float32), "image must be"),
        (np.zeros((4, 5, 3), np.float32), np.ones((2, 4, 5), np.float32), "image must be"),
        (np.zeros((4, 5, 3), np.uint8), np.ones((2, 5, 4), np.float32), "float32 for this image"),
        (np.zeros((4, 5, 3), np.uint8), np.ones((4, 5), np.float32), "float32 for this image"),
        (np.zeros((4, 5, 3), np.uint8), np.ones((2, 4, 5), np.float64), "float32 for this image"),
        (np.zeros((4, 5, 3), np.uint8), np.ones((0, 4, 5), np.float32), "1 to 256 labels"),
        (np.zeros((4, 5, 3), np.uint8), np.ones((257, 4, 5), np.float32), "1 to 256 labels"),
        (np.zeros((0, 5, 3), np.uint8), np.ones((2, 0, 5), np.float32), "at least one pixel"),
        (np.zeros((4, 5, 3), np.uint8), np.full((2, 4, 5), np.nan, np.float32), "finite"),
        (np.zeros((4, 5, 3), np.uint8), np.full((2, 4, 5), np.inf, np.float32), "finite"),
    ],
)
def test_wrong_input_is_refused(image: np.ndarray, probs: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dense_crf(image, probs)


@pytest.mark.parametrize("wrong", [{"iterations": -1}, {"gaussian_sxy": 0}, {"bilateral_srgb": float("nan")}])
def test_wrong_settings_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        CrfSettings(**wrong)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("fine", [{"gaussian_sxy": 1e-6}, {"bilateral_sxy": 1e-6}, {"bilateral_srgb": 1e-4}])
def test_too_fine_a_lattice_is_refused(fine: dict[str, float], backend: str) -> None:
    """A simplex can no longer be told in float32: the search for its corners would leave the arrays."""
    with pytest.raises(ValueError, match="deviations are too small"):
        dense_crf(smooth_image(4, 9), random_probs(2, 4, 9), CrfSettings(**fine), backend=backend)


def test_an_unknown_backend_is_refused() -> None:
    with pytest.raises(ValueError, match="numba, torch, pydensecrf"):
        dense_crf(constant_image(2, 2), random_probs(2, 2, 2), backend="gpu")


def test_a_missing_library_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pydensecrf.densecrf", None)
    with pytest.raises(UserError, match=r"pip install pydensecrf2.*numba") as caught:
        dense_crf(constant_image(2, 2), random_probs(2, 2, 2), backend="pydensecrf")
    assert "\n" not in str(caught.value)


def test_importing_the_step_does_not_import_numba() -> None:
    program = "import sys, pipeline.crf.dense_crf; assert not {'numba', 'pydensecrf', 'torch'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)


@pytest.mark.slow
def test_a_second_process_compiles_nothing() -> None:
    """The first one is this process, or, where another one compiled at the same time, the first of two more."""
    program = """
import numpy as np
from pipeline.crf.dense_crf import dense_crf
for labels in (2, 3, 5, 9):
    dense_crf(np.zeros((3, 5, 3), np.uint8), np.full((labels, 3, 5), 0.5, np.float32))
from pipeline.crf import lattice
from pipeline.crf import meanfield
used = {k: k.stats for k in (lattice._place, lattice._neighbours, lattice._chain, *map(meanfield.__dict__.get,
        ("_splat", "_blur", "_slice", "_logits", "_normalise")))}
print(sum(len(s.cache_hits) for s in used.values()), sum(len(s.cache_misses) for s in used.values()))
"""

    def hits_and_misses() -> tuple[int, int]:
        ended = subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, capture_output=True, text=True)
        hits, misses = map(int, ended.stdout.split())
        return hits, misses

    for labels in (2, 3, 5, 9):
        dense_crf(constant_image(3, 5), random_probs(labels, 3, 5))
    hits, misses = hits_and_misses()
    if misses:
        hits, misses = hits_and_misses()
    assert hits > 0 and misses == 0
