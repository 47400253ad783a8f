"""Which errors say that memory ran out."""

import numpy as np
import pytest
import torch

from common.errors import UserError
from common.memory import out_of_memory


def real_error_of_torch() -> Exception:
    """What this machine's torch says of an array that nobody can hold."""
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 60, dtype=torch.uint8)
    return caught.value


def real_error_of_numpy() -> BaseException:
    with pytest.raises(MemoryError) as caught:
        np.empty(1 << 60, np.uint8)
    return caught.value


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        real_error_of_numpy(),
        real_error_of_torch(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:114] DefaultCPUAllocator: can't allocate memory: 7 bytes"),
        RuntimeError("MPS backend out of memory (MPS allocated: 9 GB)"),
        RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    ],
    ids=lambda error: f"{type(error).__name__} {str(error)[:30]}",
)
def test_memory_that_ran_out(error: BaseException) -> None:
    assert out_of_memory(error)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUDA error: device-side assert triggered"),
        ValueError("operands could not be broadcast: out of memory.jpg"),
        UserError("photos/out of memory.jpg: not a readable image"),
        OSError(28, "No space left on device", "cannot allocate memory.png"),
        NotImplementedError("out of memory"),
        KeyboardInterrupt(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_other_errors_that_may_hold_the_same_words(error: BaseException) -> None:
    assert not out_of_memory(error)
