"""Options, progress and records of runs. In a command, Ctrl-C shows no traceback, even while modules are imported."""

import sys
from pathlib import Path
from types import TracebackType

_ROOT = Path(__file__).resolve().parents[1]
_COMMANDS = (_ROOT, *(_ROOT / folder for folder in ("scripts", "benchmarks", "clip_pseudo_masks")))


def _without_traceback(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        print("\ninterrupted", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)


_main = Path(getattr(sys.modules["__main__"], "__file__", None) or "")
if _main.resolve().parent in _COMMANDS or _main.name == "pseudo-masks":  # not in a program that imports the project
    sys.excepthook = _without_traceback
