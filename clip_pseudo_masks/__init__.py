"""The project as an installed package: the command `pseudo-masks`, and `Pipeline` for Python.

from clip_pseudo_masks import Pipeline
result = Pipeline("ViT-B-16.pt").segment("photo.jpg", labels=["dog", "person"])

The project's folders (`clip`, `pipeline`, ...) are sub-packages here, and call each other by their short names, as they
do where the project is run in place. For their modules alone such an import means the sub-package. Nothing is added to
sys.path, nor to sys.modules under a short name: everyone else's `import clip` finds what it would find without us.
"""

import builtins
import importlib
import sys
from collections.abc import Mapping, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clip_pseudo_masks.face import Pipeline, Result, UserError

__all__ = ["Pipeline", "Result", "UserError"]

ROOMS = frozenset(
    "clip cli coco14 common dataset engine exports maskclip pipeline report scripts segclip segmentor toyworld "
    "training voc12 zsseg generate_cams eval_cam eval_cam_with_crf".split()
)
if not Path(__file__).with_name("clip").is_dir():  # run in place: the folders lie beside this one
    __path__.append(str(Path(__file__).resolve().parent.parent))


def _import(
    name: str,
    globals: Mapping[str, object] | None = None,
    locals: Mapping[str, object] | None = None,
    fromlist: Sequence[str] | None = (),
    level: int = 0,
) -> ModuleType:
    """What `import` does in our modules: short names of our own modules mean those below this package."""
    top = name.partition(".")[0]
    if level or top not in ROOMS:
        return builtins.__import__(name, globals, locals, fromlist or (), level)
    module = builtins.__import__(f"{__name__}.{name}", globals, locals, fromlist or (), 0)
    return module if fromlist else sys.modules[f"{__name__}.{top}"]  # `import a.b` binds a


_BUILTINS = {**vars(builtins), "__import__": _import}


class _Loader(SourceFileLoader):
    """Runs one of our modules with the import above. Python looks for it among the builtins of a module."""

    def exec_module(self, module: ModuleType) -> None:
        module.__dict__["__builtins__"] = _BUILTINS
        super().exec_module(module)


class _Finder(MetaPathFinder):
    """Finds our modules as usual, and gives them the loader above."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if not fullname.startswith(f"{__name__}."):
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and isinstance(spec.loader, SourceFileLoader):
            spec.loader = _Loader(fullname, spec.loader.path)
        return spec


if not any(type(finder).__qualname__ == _Finder.__qualname__ for finder in sys.meta_path):
    sys.meta_path.insert(0, _Finder())


def __getattr__(name: str) -> Any:
    """The names of `__all__`, whose module brings PyTorch, when they are first asked for."""
    if name in __all__:
        return getattr(importlib.import_module(f"{__name__}.face"), name)
    if name == "__version__":
        return importlib.import_module(f"{__name__}.common.version").VERSION
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
