"""Values of the command line: how a text becomes one, and settings whose fields are options.

A dataclass whose fields are made by `option` says each default and each help text once; cli/options.py makes options of
it. This file imports nothing heavy, so that `--help` is quick.
"""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import field
from typing import Any


def positive(text: str) -> int:
    """argparse type: an integer of at least 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text}: expected 1 or more")
    return value


def count(text: str) -> int:
    """argparse type: an integer of at least 0."""
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text}: expected 0 or more")
    return value


def not_negative(text: str) -> float:
    """argparse type: a finite number of at least 0."""
    value = float(text)
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text}: expected a number from 0 on")
    return value


def share(text: str) -> float:
    """argparse type: a number from 0 to 1."""
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text}: expected a number from 0 to 1")
    return value


def scale(text: str) -> float:
    """argparse type: a factor above 0, at most 8."""
    value = float(text)
    if not 0 < value <= 8:
        raise argparse.ArgumentTypeError(f"{text}: expected a positive number of at most 8")
    return value


def option(
    default: Any,
    help: str,
    *,
    flag: str = "",
    type: Callable[[str], Any] = share,
    choices: Sequence[str] | None = None,
    many: bool | int = False,
    metavar: str | None = None,
) -> Any:
    """A field of a settings dataclass that is also a command-line option.

    flag  as it is typed, such as `--frame`; not given: `--` and the name of the field
    many  takes several values, or so many, which become a tuple
    """
    words = {"help": help, "flag": flag, "type": type, "choices": choices, "many": many, "metavar": metavar}
    return field(default=default, metadata=words)
