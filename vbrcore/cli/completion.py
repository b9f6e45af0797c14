"""`completion SHELL`: a script for the shell, made from the parsers."""

from __future__ import annotations

import argparse

from vbrcore.cli import parser
from vbrcore.cli.parser import NOUNS, Nouns, Parser


def add_parser(nouns: Nouns[Parser]) -> None:
    completion = parser.verb(
        nouns,
        "completion",
        _completion,
        NOUNS["completion"],
        "completion bash > ~/.local/share/bash-completion/completions/vbrcore",
        "completion fish > ~/.config/fish/completions/vbrcore.fish",
    )
    completion.add_argument("shell", choices=("bash", "zsh", "fish"), metavar="SHELL", help="bash, zsh or fish")


def _completion(args: argparse.Namespace) -> int:
    import shtab  # noqa: PLC0415 - of no use to any other command

    from vbrcore.cli.main import build_parser  # noqa: PLC0415 - it imports this module by name

    print(shtab.complete(build_parser(), shell=args.shell))
    return 0
