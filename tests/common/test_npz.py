"""Arrays read by several threads at once: Python's parser must not turn a sound file into a damaged one."""

import gc
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from common.npz import opened_npz, read_npy


@pytest.fixture
def busy_threads() -> Iterator[None]:
    """Threads change places during every garbage collection, and there are many of them."""

    def pause(phase: str, info: dict) -> None:
        time.sleep(1e-5)

    thresholds, interval = gc.get_threshold(), sys.getswitchinterval()
    gc.callbacks.append(pause)
    gc.set_threshold(5)
    sys.setswitchinterval(1e-6)
    yield
    gc.callbacks.remove(pause)
    gc.set_threshold(*thresholds)
    sys.setswitchinterval(interval)


@pytest.mark.slow
def test_threads_read_sound_files(tmp_path: Path, busy_threads: None) -> None:
    wanted = np.arange(12, dtype=np.float32).reshape(3, 4)
    np.savez(tmp_path / "a.npz", array=wanted)
    np.save(tmp_path / "a.npy", wanted)

    def read(_: int) -> bool:
        with opened_npz(tmp_path / "a.npz", "missing", "arrays", "make it again") as arrays:
            same = np.array_equal(arrays["array"], wanted)
        with (tmp_path / "a.npy").open("rb") as stream:
            return same and np.array_equal(read_npy(stream), wanted)

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(read, range(2500)))
