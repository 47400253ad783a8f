"""Memory that runs out: in which parts a batch is computed, what is remembered, and what goes to the CPU.

The device is a stand-in that holds so many images and no more; the CPU's copy of a model is a real one.
"""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from clip.load import Clip
from common.errors import StopRun, UserError
from pipeline.methods.method import CamSettings, TextSet
from pipeline.stages import out_of_memory as stage
from pipeline.stages.out_of_memory import ON_CPU, REPEATED, Computed, DeviceLost, DeviceMemory, copied_to_cpu

SHAPE = (32, 40)
HALVED = "batch halved: out of GPU memory"


def work_on(device: str) -> Any:
    return SimpleNamespace(device=torch.device(device)), None, None


class Device:
    """Computes at most `holds` images at once on the GPU, any number on the CPU; image 13 has maps nowhere."""

    def __init__(self, holds: int, error: str = "CUDA out of memory. Tried to allocate 2 GiB") -> None:
        self.holds, self.error, self.asked = holds, error, list[tuple[str, int, int]]()

    def __call__(self, work: Any, part: slice) -> list[Any]:
        where = work[0].device.type
        self.asked.append((where, part.start, part.stop))
        if where == "cuda" and part.stop - part.start > self.holds:
            raise torch.OutOfMemoryError(self.error)
        if part.start <= 13 < part.stop:
            raise ValueError("unlucky")
        return list(range(part.start, part.stop))


def computed(device: Device, count: int, found: DeviceMemory, where: str = "cuda") -> list[Any]:
    return found.compute(device, work_on(where), SHAPE, count)


def test_a_batch_that_fits_is_computed_at_once() -> None:
    device = Device(holds=8)
    assert computed(device, 8, DeviceMemory()) == [Computed(index) for index in range(8)]  # type: ignore[arg-type]
    assert device.asked == [("cuda", 0, 8)]


def test_a_batch_is_halved_until_it_fits_and_the_size_is_kept_for_its_grid() -> None:
    device, found = Device(holds=3), DeviceMemory()
    assert computed(device, 8, found) == [Computed(index, HALVED) for index in range(8)]  # type: ignore[arg-type]
    assert device.asked == [("cuda", 0, 8), ("cuda", 0, 4), *[("cuda", at, at + 2) for at in (0, 2, 4, 6)]]
    device.asked.clear()
    assert computed(device, 5, found) == [Computed(index, HALVED) for index in range(5)]  # type: ignore[arg-type]
    assert device.asked == [("cuda", 0, 2), ("cuda", 2, 4), ("cuda", 4, 5)]
    device.asked.clear()
    assert found.compute(device, work_on("cuda"), (48, 32), 3) == [Computed(i) for i in range(3)]  # type: ignore[arg-type]
    assert computed(device, 2, found) == [Computed(0), Computed(1)]  # type: ignore[arg-type]
    assert device.asked == [("cuda", 0, 3), ("cuda", 0, 2)]


def test_single_images_that_do_not_fit_go_to_one_copy_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    copies = []

    def copied(*work: Any) -> Any:
        copies.append(work)
        return work_on("cpu")

    monkeypatch.setattr(stage, "copied_to_cpu", copied)
    device, found = Device(holds=0), DeviceMemory()
    assert [made.note for made in computed(device, 3, found)] == [ON_CPU] * 3
    assert [made.maps for made in computed(device, 2, found)] == [0, 1]
    assert len(copies) == 1
    assert [asked for asked in device.asked if asked[0] == "cpu"] == [
        ("cpu", 0, 1), ("cpu", 1, 2), ("cpu", 2, 3), ("cpu", 0, 1), ("cpu", 1, 2),
    ]  # fmt: skip


@pytest.mark.parametrize("where", ["cpu", "cuda"])
def test_an_image_that_fits_nowhere_fails_alone(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage, "copied_to_cpu", lambda *work: work_on("cpu"))

    def scarce(work: Any, part: slice) -> list[Any]:
        if part.start <= 1 < part.stop:
            raise MemoryError
        return list(range(part.start, part.stop))

    first, second, third = DeviceMemory().compute(scarce, work_on(where), SHAPE, 3)
    assert isinstance(first, Computed) and isinstance(third, Computed) and isinstance(second, UserError)
    assert "not enough memory" in str(second) and "--max_side" in str(second)


def test_another_error_costs_one_image_and_shrinks_no_later_batch() -> None:
    device, found = Device(holds=99), DeviceMemory()
    results = computed(device, 16, found)
    assert [index for index, made in enumerate(results) if not isinstance(made, Computed)] == [13]
    assert str(results[13]) == "unlucky" and results[0] == Computed(0, REPEATED)  # type: ignore[arg-type]
    device.asked.clear()
    assert computed(device, 12, found) == [Computed(index) for index in range(12)]  # type: ignore[arg-type]
    assert device.asked == [("cuda", 0, 12)]


@pytest.mark.parametrize(
    ("error", "ended"),
    [
        (StopRun("disk full"), StopRun),
        (RuntimeError("CUDA error: an illegal memory access was encountered\nCUDA kernel errors"), DeviceLost),
        (KeyboardInterrupt(), KeyboardInterrupt),
    ],
)
def test_what_ends_the_run_is_not_an_images_failure(error: BaseException, ended: type[BaseException]) -> None:
    def failing(work: Any, part: slice) -> list[Any]:
        raise error

    with pytest.raises(ended) as caught:
        DeviceMemory().compute(failing, work_on("cuda"), SHAPE, 2)
    assert "\n" not in str(caught.value)


def test_nothing_of_a_failed_try_stays_in_memory() -> None:
    """The frames of an error hold its tensors; they would be missing in the next try."""
    import weakref

    alive: list[weakref.ref] = []

    def hungry(work: Any, part: slice) -> list[Any]:
        assert not any(tensor() is not None for tensor in alive)
        tensor = torch.zeros(4)
        alive.append(weakref.ref(tensor))
        if part.stop - part.start > 1:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return [0]

    assert len(DeviceMemory().compute(hungry, work_on("cuda"), SHAPE, 4)) == 4 and len(alive) == 6


def test_the_copy_on_the_cpu_is_whole_and_plain(tiny_clip: Clip) -> None:
    text = TextSet(torch.zeros(2, 32), torch.ones(1, 32), (1, 1))
    clip, texts, settings = copied_to_cpu(tiny_clip, text, CamSettings(precision="float16", compile=True, flip=True))
    assert clip.device.type == "cpu" and clip.model is not tiny_clip.model and not clip.model.training
    weights, copies = tiny_clip.model.state_dict(), clip.model.state_dict()
    assert weights.keys() == copies.keys() and all(torch.equal(weights[name], copies[name]) for name in weights)
    image = torch.randn(1, 3, 32, 32)
    assert torch.equal(clip.model.encode_image(image), tiny_clip.model.encode_image(image))
    assert torch.equal(texts.background, text.background) and texts.counts == (1, 1)
    assert settings == CamSettings(precision="float32", compile=False, flip=True)
    assert not any(weight.requires_grad for weight in clip.model.parameters())


def test_the_copy_touches_no_weight_of_the_device(tiny_clip: Clip) -> None:
    """`deepcopy` would double the weights where there is no room: each of them must come from its own copy."""
    clip, _, _ = copied_to_cpu(tiny_clip, TextSet(torch.zeros(1, 32), torch.zeros(1, 32)), CamSettings())
    shared = {weight.data_ptr() for weight in tiny_clip.model.parameters()}
    assert {weight.data_ptr() for weight in clip.model.parameters()} == shared  # `.cpu()` on the CPU copies nothing
