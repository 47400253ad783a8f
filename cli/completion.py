"""Completion of commands and options in a shell, by argcomplete. It runs the command, which then ends with its answer.

argcomplete's shell code sets _ARGCOMPLETE, and COMP_LINE, what is typed so far.
"""

import argparse
import os
from collections.abc import Iterable


def words(commands: Iterable[str]) -> list[str]:
    """What was typed behind `pseudo-masks`; completes the name of the command itself, and ends, while that is typed."""
    from argcomplete import split_line

    _, prefix, _, typed, _ = split_line(os.environ["COMP_LINE"], int(os.environ["COMP_POINT"]))
    typed = typed[1:]
    names = [name.split() for name in commands]
    depth = next((len(name) for name in names if name == typed[: len(name)]), 0)
    if depth:
        os.environ["_ARGCOMPLETE"] = str(1 + depth)
        return [*typed, prefix]
    start = len(typed)
    parser = argparse.ArgumentParser(add_help=False)
    for place in range(start):
        parser.add_argument(f"word{place}")
    following = sorted({name[start] for name in names if name[:start] == typed and len(name) > start})
    parser.add_argument("command", choices=following)
    complete(parser)
    return []


def complete(parser: argparse.ArgumentParser) -> None:
    """Answer the shell with the options and values of a parser that may follow, and end the process."""
    import argcomplete

    argcomplete.autocomplete(parser, always_complete_options="long")
