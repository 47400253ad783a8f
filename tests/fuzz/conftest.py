"""How much is fuzzed: a fixed, repeatable budget by default, FUZZ_EXAMPLES random ones a test when that is set."""

import os
import resource
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, configuration, settings

EXAMPLES = os.environ.get("FUZZ_EXAMPLES", "")
ROOM = 4 << 30  # bytes of address space that the readers may take on top of what is taken already

configuration.set_hypothesis_home_dir(Path(tempfile.gettempdir()) / "hypothesis")  # nothing is left in the tree
settings.register_profile(
    "fuzz",
    max_examples=int(EXAMPLES or 40),
    derandomize=not EXAMPLES,
    print_blob=bool(EXAMPLES),
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)
settings.load_profile("fuzz")


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every test works in a folder of its own, so that names are short and nothing lies about."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(autouse=True)
def bounded_memory() -> Iterator[None]:
    """Whoever asks for gigabytes gets a MemoryError, where the system keeps count (Linux)."""
    status = Path("/proc/self/statm")
    before = resource.getrlimit(resource.RLIMIT_AS)
    if status.exists():
        room = int(status.read_text().split()[0]) * resource.getpagesize() + ROOM
        least = min(limit for limit in (room, *before) if limit != resource.RLIM_INFINITY)
        resource.setrlimit(resource.RLIMIT_AS, (least, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)
