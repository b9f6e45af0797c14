"""`tui`: the dashboard is a floor above the command line, so it is started as what it is: another program."""

from __future__ import annotations

import argparse
import os
import sys

from vbrcore.cli import parser
from vbrcore.cli.parser import NOUNS, Nouns, Parser


def add_parser(nouns: Nouns[Parser]) -> None:
    tui = parser.verb(nouns, "tui", _tui, NOUNS["tui"], "tui", "tui --screenshot /tmp/now --size 120x40")
    tui.add_argument("--screenshot", metavar="DIR", help="write one picture as SVG and text, and end")
    tui.add_argument("--size", metavar="WxH", help="of the picture (120x40)")


def _tui(args: argparse.Namespace) -> int:
    options = {"--home": args.home, "--screenshot": args.screenshot, "--size": args.size}
    words = [word for name, value in options.items() if value for word in (name, value)]
    os.execv(sys.executable, [sys.executable, "-m", "vbrcore", "tui", *words])  # noqa: S606 - never returns
