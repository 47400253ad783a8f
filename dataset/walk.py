"""The folders below a folder."""

import os
from collections.abc import Iterator
from pathlib import Path

from common.errors import UserError

MAX_DEPTH = 100  # folders within folders; Python before 3.12 walks them by recursion


def walk(root: Path) -> Iterator[tuple[Path, list[str], list[str]]]:
    """`os.walk`, which follows no links to folders; raises UserError for what only a trap would hold."""
    for folder, subfolders, names in os.walk(root):
        if len(Path(folder).parts) - len(root.parts) > MAX_DEPTH:
            raise UserError(f"{root}: folders in folders, more than {MAX_DEPTH} deep; move the files further up")
        yield Path(folder), subfolders, names


def files_below(root: Path, suffix: str) -> list[Path]:
    """All files with a suffix, at any depth, sorted."""
    return sorted(folder / name for folder, _, names in walk(root) for name in names if name.endswith(suffix))
