"""Whether an error says that memory ran out, on the machine or on its GPU. Imports nothing heavy."""

GPU_WORDS = ("out of memory", "allocate memory", "STATUS_ALLOC_FAILED")  # of CUDA, MPS, cuBLAS, cuDNN, torch's CPU
TORCH_ERRORS = ("OutOfMemoryError", "AcceleratorError")  # subclasses of RuntimeError in the module `torch`


def out_of_memory(error: BaseException) -> bool:
    """Whether Python, numpy, torch or a library of a GPU raised this error because memory ran out.

    MemoryError and its subclasses (numpy's among them) always do. Of RuntimeErrors only those of torch and of the
    libraries below it are looked at for words: these are a plain RuntimeError, or one of TORCH_ERRORS. Any other error
    may hold the same words by chance, such as the name of a file.
    """
    if isinstance(error, MemoryError):
        return True
    kind = type(error)
    of_torch = kind.__module__.split(".")[0] == "torch" and kind.__name__ in TORCH_ERRORS
    if of_torch and kind.__name__ == "OutOfMemoryError":
        return True
    return (kind is RuntimeError or of_torch) and any(word in str(error) for word in GPU_WORDS)
