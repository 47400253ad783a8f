"""argparse types for numbers, and dataclass fields that become command-line options.

A dataclass with fields made by `option` states each default and each help text once; cli/options.py adds the options.
This file imports nothing heavy, so that `--help` is quick.
"""

import argparse
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import field
from typing import Any


def _number(kind: Callable[[str], Any], valid: Callable[[Any], bool], expected: str) -> Callable[[str], Any]:
    """An argparse type that refuses texts that are no number, and numbers that are not valid (NaN never is)."""

    def parse(text: str) -> Any:
        with suppress(ValueError):
            if valid(value := kind(text)):
                return value
        raise argparse.ArgumentTypeError(f"{text}: expected {expected}")

    return parse


positive = _number(int, lambda value: value >= 1, "1 or more")
count = _number(int, lambda value: value >= 0, "0 or more")
not_negative = _number(float, lambda value: 0 <= value < float("inf"), "a number from 0 on")
positive_number = _number(float, lambda value: 0 < value < float("inf"), "a number above 0")
share = _number(float, lambda value: 0 <= value <= 1, "a number from 0 to 1")
at_least_one = _number(float, lambda value: 1 <= value < float("inf"), "a number from 1 on")
scale = _number(float, lambda value: 0 < value <= 8, "a positive number of at most 8")


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
