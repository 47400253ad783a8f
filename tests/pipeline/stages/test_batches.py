"""How the list is cut into batches, and what reading a batch leaves of it."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from clip.image import prepare_image
from common.errors import StopRun
from common.images import read_image
from common.provenance import source_of
from dataset.spec import Sample
from pipeline.stages import batches
from pipeline.stages.batches import Batch, Reader, batch_size_for, plan, with_work
from tests.support import photo

READER = Reader(patch_size=8, max_side=1024)


def ids(found: list[Batch]) -> list[list[str]]:
    return [[sample.id for sample in batch.samples] for batch in found if batch.samples]


def test_batches_are_of_one_patch_grid_and_their_samples_in_order(samples: list[Sample]) -> None:
    """a, b, c and e have 4 x 5 patches, d has 6 x 4."""
    assert ids(list(plan(READER, 3, samples))) == [["a", "b", "c"], ["e"], ["d"]]
    assert ids(list(plan(READER, 1, samples))) == [["a"], ["b"], ["c"], ["e"], ["d"]]


def test_a_batch_with_anything_missing_is_worked_on_whole(samples: list[Sample]) -> None:
    found = list(with_work(plan(READER, 3, samples), set("abde")))
    assert ids(found) == [["a", "b", "c"]]
    outcomes = [outcome for batch in found for outcome in batch.outcomes]
    assert [(outcome.id, outcome.status) for outcome in outcomes] == [("e", "kept"), ("d", "kept")]


def test_a_list_is_cut_in_windows(samples: list[Sample], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "WINDOW", 2)
    assert ids(list(plan(READER, 3, samples))) == [["a", "b"], ["c"], ["d"], ["e"]]
    samples[0].image.unlink()
    found = list(plan(READER, 3, samples))
    assert ids(found)[0] == ["b"] and [outcome.id for batch in found for outcome in batch.outcomes] == ["a"]


@pytest.mark.parametrize(
    ("grid", "largest", "size"), [((32, 32), 8, 8), ((32, 32), 3, 3), ((64, 64), 8, 2), ((99, 99), 8, 1)]
)
def test_batches_shrink_with_the_square_of_the_patches(grid: tuple[int, int], largest: int, size: int) -> None:
    assert batch_size_for(grid, largest) == size


def test_a_batch_is_read_and_what_cannot_be_read_costs_no_other(samples: list[Sample]) -> None:
    samples[1].image.write_bytes(b"no image")
    samples[2].image.write_bytes(samples[2].image.read_bytes()[:-200])
    found = READER(Batch(samples[:3]))
    (image,) = found.images
    assert (image.sample, image.size, image.source) == (samples[0], (31, 40), source_of(samples[0].image))
    assert image.pixels is not None
    assert torch.equal(image.pixels, prepare_image(read_image(samples[0].image), 8))
    assert [(outcome.id, outcome.status) for outcome in found.outcomes] == [("b", "failed"), ("c", "failed")]
    for sample, outcome in zip(samples[1:3], found.outcomes):
        assert f"{sample.image}: not a readable image" in outcome.reason and "\n" not in outcome.reason


def test_large_images_are_shrunk_for_the_model(tmp_path: Path) -> None:
    Image.fromarray(photo((80, 200), 0)).save(tmp_path / "a.jpg")
    reader = Reader(patch_size=8, max_side=100)
    (image,) = reader(Batch([Sample("a", tmp_path / "a.jpg", ())])).images
    assert image.pixels is not None and image.pixels.shape == (3, 40, 104)
    assert image.size == (80, 200) and reader.grid((80, 200)) == (5, 13)


def test_a_stopped_run_is_no_images_failure(samples: list[Sample], monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise StopRun("disk full")

    monkeypatch.setattr(batches, "image_size", full)
    with pytest.raises(StopRun):
        READER(Batch(samples[:1]))
    with pytest.raises(StopRun):
        list(plan(READER, 1, samples))
