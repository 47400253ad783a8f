"""Shell code that lets TAB complete the commands and options of pseudo-masks, for bash, zsh or fish.

eval "$(pseudo-masks completion bash)"      # in ~/.bashrc; zsh and fish alike
"""

import argparse
import sys

from cli import console
from cli.commands import PROGRAM
from cli.options import Parser
from common.errors import EXIT_OK


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = Parser(
        "Shell code that lets TAB complete the commands and options of pseudo-masks.",
        f'bash and zsh: eval "$({PROGRAM} completion bash)" in ~/.bashrc or ~/.zshrc. fish: {PROGRAM} completion fish '
        "> ~/.config/fish/completions/pseudo-masks.fish",
    )
    parser.add_argument("shell", choices=("bash", "zsh", "fish"), help="which shell will read it")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    return console.run(lambda: _run(args.shell))


def _run(shell: str) -> int:
    import argcomplete

    print(argcomplete.shellcode([PROGRAM], shell=shell))
    return EXIT_OK


if __name__ == "__main__":
    sys.exit(main())
