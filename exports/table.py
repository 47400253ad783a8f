"""The export formats: to add one, a file with a FORMAT, a line here, and a test that reads it as its trainer does."""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from exports.files import Format

FORMATS = {  # name: module, imported when it is asked for, so that --help is quick
    "deeplab-pytorch": "exports.deeplab_pytorch",
    "mmsegmentation": "exports.mmsegmentation",
}


def format_of(name: str) -> "Format":
    """The format of that name, a key of FORMATS."""
    return importlib.import_module(FORMATS[name]).FORMAT
