"""pipeline.crf.lattice against a literal lattice in plain Python, and what happens at its limits."""

import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from pipeline.crf import lattice
from pipeline.crf.lattice import Lattice, build, code_digits
from tests.naive_lattice import links, simplices

ROOT = Path(__file__).resolve().parents[3]


def random_features(dims: int, count: int, spread: float) -> np.ndarray:
    return (np.random.default_rng(dims * count).random((dims, count), np.float32) - np.float32(0.3)) * np.float32(
        spread
    )


def chained(chain: np.ndarray) -> set[tuple[int, int]]:
    """The pairs that the entries of a chain link."""
    return {(int(one) >> 1, int(other) >> 1) for one, other in pairwise(chain) if one & 1}


def assert_is_naive(built: Lattice, features: np.ndarray) -> None:
    pixels, vertices = simplices(features)
    number = {}
    for corners, ids in zip(pixels, built.vertices.tolist()):
        for (key, _), vertex in zip(corners, ids):
            assert number.setdefault(key, vertex) == vertex
    assert len(set(number.values())) == len(number)
    assert built.size == len(vertices)
    assert np.array_equal(built.weights, np.array([[weight for _, weight in corners] for corners in pixels]))
    for axis, chain in enumerate(built.chains):
        pairs = chained(chain)
        assert len(pairs) == sum(1 for _ in links(vertices, axis))
        assert pairs >= {
            (number[one], number[other]) for one, other in links(vertices, axis) if one in number and other in number
        }


@pytest.mark.parametrize("dims", [1, 2, 3, 5, 7])
@pytest.mark.parametrize("count", [1, 2, 3, 4, 63, 64])
@pytest.mark.parametrize("spread", [0.5, 4, 60])
def test_vertices_weights_and_links_are_those_of_the_naive_lattice(dims: int, count: int, spread: float) -> None:
    features = random_features(dims, count, spread)
    assert_is_naive(build(features), features)


def test_ties_are_broken_as_in_the_naive_lattice() -> None:
    grid = np.stack(np.meshgrid(np.arange(9), np.arange(7))).reshape(2, -1).astype(np.float32)
    assert_is_naive(build(grid), grid)
    assert_is_naive(build(grid * 0), grid * 0)


def test_the_padding_of_the_library_has_vertices_too() -> None:
    far = np.full((5, 4), 40, np.float32)
    assert build(far).size == 6
    assert build(far[:, :3]).size == 12


def test_weights_sum_to_one_and_every_vertex_of_a_full_block_is_used() -> None:
    built = build(random_features(5, 400, 9))
    assert np.abs(built.weights.sum(axis=1) - 1).max() < 1e-5
    assert built.weights.min() > -1e-5
    assert set(built.vertices.ravel().tolist()) == set(range(built.size))


def test_each_vertex_is_at_most_once_in_a_chain_and_the_last_entry_ends_it() -> None:
    for chain in build(random_features(5, 400, 3)).chains:
        assert len(np.unique(chain >> 1)) == len(chain) > 0
        assert chain[-1] & 1 == 0


def test_the_table_grows_without_changing_the_lattice() -> None:
    features = random_features(5, 5000, 50)
    small, ample = build(features, slots=16), build(features, slots=1 << 18)
    assert ample.size > 8000
    assert np.array_equal(small.vertices, ample.vertices)
    assert all(np.array_equal(one, other) for one, other in zip(small.chains, ample.chains))


def test_codes_too_long_for_a_slot_are_told_apart() -> None:
    features = random_features(5, 48, 2000)
    assert code_digits(features).bits + (48 * 6).bit_length() > 64
    assert_is_naive(build(features), features)


def test_where_the_hash_is_not_unique_the_codes_decide() -> None:
    codes = np.arange(0, 3000, 3)
    id_bits = 60  # leaves four bits of the hash: many codes share them
    slots = np.zeros(4096, np.uint64)
    lattice._refill(len(codes), codes, slots, id_bits, False)
    found = [lattice._vertex(slots[lattice._find(code, codes, slots, id_bits, False)], id_bits) for code in range(3000)]
    assert found == [code // 3 if code % 3 == 0 else -1 for code in range(3000)]


def test_a_lattice_too_fine_to_be_numbered_is_refused() -> None:
    with pytest.raises(ValueError, match="deviations are too small"):
        build(random_features(5, 8, 1e5))


def test_too_many_pixels_are_refused_before_anything_is_allocated() -> None:
    with pytest.raises(ValueError, match="too many"):
        build(np.broadcast_to(np.float32(0), (5, 400_000_000)))


@pytest.mark.slow
def test_without_a_place_for_its_cache_it_still_works() -> None:
    program = """
import tempfile
def refuse(*args, **kwargs): raise OSError("read-only")
tempfile.TemporaryFile = refuse
import numpy as np
from pipeline.crf import lattice
assert lattice._vertex(np.uint64(5), 60) == 4
assert {type(k._cache).__name__ for k in (lattice._vertex, lattice._chain)} == {"NullCache"}
"""
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)
