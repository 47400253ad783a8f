"""The command `pseudo-masks`: calls the command that its first word names (cli/commands.py)."""

import difflib
import os
import sys
from collections.abc import Sequence

from cli.commands import COMMANDS, PROGRAM, call
from common.errors import EXIT_OK, EXIT_USAGE
from common.package import module
from common.version import VERSION

HELP = ("-h", "--help", "help")
HEAD = f"""usage: {PROGRAM} COMMAND [options]

Images + image-level labels -> segmentation masks with a frozen CLIP. `{PROGRAM} COMMAND --help` shows a command's
options; results go below the current folder.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit code. Without one, or with --help, the list of commands is printed."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if "_ARGCOMPLETE" in os.environ:
        argv = module("cli.completion").words(COMMANDS)
    name = " ".join(argv[:2]) if " ".join(argv[:2]) in COMMANDS else "".join(argv[:1])
    if name in COMMANDS:
        call(name)
        return int(module(COMMANDS[name][0]).main(argv[len(name.split()) :]))
    if name in ("-V", "--version"):
        print(f"{PROGRAM} {VERSION}")
        return EXIT_OK
    parts = [full for full in COMMANDS if name and full.startswith(f"{name} ")]  # of `prepare`
    if name in ("", *HELP) or (parts and argv[1:] in ([], ["-h"], ["--help"])):
        print(HEAD)
        print(table(parts or list(COMMANDS)), end="")
        return EXIT_USAGE if argv in ([], [name]) and name not in HELP else EXIT_OK
    wrong = " ".join(argv[:2]) if parts else name
    near = difflib.get_close_matches(wrong, parts or COMMANDS, n=1)
    hint = f"did you mean {near[0]}?" if near else f"expected one of {', '.join(parts or COMMANDS)}"
    print(f"error: {wrong}: no such command; {hint} (see {PROGRAM} --help)", file=sys.stderr)
    return EXIT_USAGE


def table(names: Sequence[str]) -> str:
    """A line a command: its name and what it does."""
    width = max(map(len, names))
    return "".join(f"  {name:{width}}  {COMMANDS[name][1]}\n" for name in names)
