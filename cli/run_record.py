"""The parts of run.json, and the check that the files of an earlier run were made in the same way."""

import functools
import importlib.metadata
import json
import platform
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from common.errors import UserError
from common.files import files_below
from common.provenance import differences
from common.version import VERSION

RUN_FILE = "run.json"
FORMAT = 1  # of run.json
LARGEST = 1 << 20  # bytes; what is larger is no run.json
ROOT = Path(__file__).resolve().parent.parent
PACKAGES = {"torch": "torch", "numpy": "numpy", "numba": "numba", "opencv": "opencv-python-headless"}


@dataclass(frozen=True)
class Output:
    """The folder where a run writes one <id><suffix> an image, and what all of these files have in common.

    option     the command-line option that names the folder
    settings   JSON-serialisable; files with other settings must not lie in the same folder
    device     the device of the computation
    overwrite  replace files that were made in another way
    """

    folder: Path
    suffix: str
    option: str
    ids: Sequence[str]
    settings: Mapping[str, Any]
    device: str
    overwrite: bool = False

    def file(self, image_id: str) -> Path:
        return self.folder / f"{image_id}{self.suffix}"


def check_same_settings(output: Output) -> None:
    """Raise UserError, with the difference, when the folder's run.json describes files with other settings.

    This is the quick check for all files at once; the stage checks each file later. A run.json that is damaged, of
    another form, or has no files beside it counts as absent. The run.json of files of another kind is never replaced:
    CAM files and masks in one folder would lose the record of one of them.
    """
    record = read_record(output.folder / RUN_FILE)
    if record is None:
        return
    suffix = record.get("suffix", output.suffix)
    if suffix != output.suffix and any(path.endswith(str(suffix)) for path in files_below(output.folder)):
        where = f"{output.option} {output.folder}: holds the {suffix} files of {record.get('command')}"
        raise UserError(f"{where}; pass another folder, one for each kind of files")
    if output.overwrite:
        return
    detail = differences(record["settings"], output.settings)
    if detail and any(path.endswith(output.suffix) for path in files_below(output.folder)):
        where = f"{output.folder / RUN_FILE}: the files here were made with other settings: {detail}"
        raise UserError(f"{where}; pass --overwrite or another {output.option}")


def read_record(path: Path) -> dict[str, Any] | None:
    """The content of a run.json, with `settings`; None for a file that is missing, damaged or of another form."""
    try:
        if not path.is_file() or path.stat().st_size > LARGEST:
            return None
        record = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    valid = isinstance(record, dict) and record.get("format") == FORMAT and isinstance(record.get("settings"), dict)
    return record if valid else None


def now() -> str:
    """The time in UTC as ISO 8601, to the second."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


@functools.cache
def code_version() -> dict[str, str]:
    """The version of this code and, in a git checkout of its own, the commit."""
    command = ["git", "-C", str(ROOT), "rev-parse", "--show-toplevel", "HEAD"]
    try:
        lines = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True).stdout.splitlines()
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return {"version": VERSION}
    # Another top folder is a checkout of something around this code.
    return {"version": VERSION} | ({"git": lines[1]} if Path(lines[0]) == ROOT else {})


@functools.cache
def versions() -> dict[str, str]:
    """Versions of Python, the system, and the installed packages that the results depend on."""
    result = {"python": platform.python_version(), "platform": platform.platform()}
    for name, package in PACKAGES.items():
        with suppress(importlib.metadata.PackageNotFoundError):
            result[name] = importlib.metadata.version(package)
    return result
