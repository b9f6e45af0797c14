"""`tui`: the dashboard is a floor above the command line, so it is started as what it is: another program."""

from __future__ import annotations

import argparse
import os
import sys

from vbrcore.cli import parser
from vbrcore.cli.parser import NOUNS, Nouns, Parser


def add_parser(nouns: Nouns[Parser]) -> None:
    parser.verb(nouns, "tui", _tui, NOUNS["tui"], "tui", "tui --home /var/lib/vbrcore")


def _tui(args: argparse.Namespace) -> int:
    home = ["--home", args.home] if args.home else []
    os.execv(sys.executable, [sys.executable, "-m", "vbrcore", "tui", *home])  # noqa: S606 - never returns
