"""Whether this code runs in its own folder or as the installed package clip_pseudo_masks, and what follows from it.

In its folder everything is installed from requirements.txt; the package leaves what few people need to its extras.
"""

import importlib
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

from common.errors import UserError

PACKAGE = __name__.removesuffix("common.package")  # "clip_pseudo_masks." where it is installed, else empty
ALWAYS = (  # packages that come with the package itself, by the names that they are imported by
    "torch", "torchvision", "numpy", "numba", "open_clip", "safetensors", "ttach", "cv2", "PIL", "lxml", "jinja2",
    "ftfy", "regex", "yaml", "tqdm", "argcomplete", "pycocotools", "timm",
)  # fmt: skip
EXTRAS = {  # those that an extra of pyproject.toml brings
    "transformers": "hub",
    "tensorboard": "segmentor",
    "scipy": "prepare",
    "skimage": "zsseg",
    "webdataset": "segclip",
    "ray": "ray",
    "pyarrow": "ray",
    "fsspec": "ray",
    "gradio": "page",
}
USERS = {  # code that imports more than one of them, and the extra that brings them all
    "scripts.train_segmentor": "segmentor",
    "scripts.predict_segmentor": "segmentor",
    "scripts.propose": "zsseg",
    "scripts.train_zsseg": "zsseg",
    "scripts.superpixels": "segclip",
    "scripts.pretrain_segclip": "segclip",
    "pipeline.methods.zsseg": "zsseg",
}
OWN_FILES = ("ray", "page")  # extras that are not in requirements.txt


def module(name: str) -> ModuleType:
    """One of this project's modules by its name in the folder, such as "toyworld.spec"."""
    return importlib.import_module(f"{PACKAGE}{name}")


def how_to_install(extra: str) -> str:
    """The command that brings the packages of an extra; empty: those that everything needs."""
    if PACKAGE:
        return f"pip install 'clip-pseudo-masks{f'[{extra}]' if extra else ''}'"
    return f"pip install -r {f'requirements-{extra}.txt' if extra in OWN_FILES else 'requirements.txt'}"


def missing_package(error: ModuleNotFoundError) -> UserError | None:
    """What to tell people where one of these packages is missing; None where it is another module."""
    name = (error.name or "").partition(".")[0]
    if name in ALWAYS:
        where = f"for {sys.executable}: {how_to_install('')}, or run the Python that has it"
        return UserError(f"this needs the package {name}, which is not installed {where}")
    if name not in EXTRAS:
        return None
    callers = (frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(error.__traceback__))
    users = (USERS.get(caller.removeprefix(PACKAGE)) for caller in callers)
    extra = next(filter(None, users), EXTRAS[name])
    return UserError(f"this needs the package {name}, which is not installed: {how_to_install(extra)}")


@contextmanager
def needed_packages() -> Iterator[None]:
    """Raise UserError, as `missing_package` says it, where the block needs a package that is missing."""
    try:
        yield
    except ModuleNotFoundError as error:
        if missing := missing_package(error):
            raise missing from error
        raise
