"""`slots`: what is in use, and by whom."""

from __future__ import annotations

import argparse

from vbrcore.cli import parser
from vbrcore.cli.api import operations, types
from vbrcore.cli.context import call
from vbrcore.cli.output import print_json, print_table
from vbrcore.cli.parser import NOUNS, Nouns, Parser


def add_parser(nouns: Nouns[Parser]) -> None:
    parser.verb(nouns, "slots", _slots, NOUNS["slots"], "slots", "slots --json")


def _slots(args: argparse.Namespace) -> int:
    views = call(args, operations.SLOTS, types.Nothing())
    if args.json:
        print_json(views)
        return 0
    rows = []
    for view in views:
        state = view.closed or ("full" if view.used >= view.limit else "free")
        rows.append((view.label, f"{view.used}/{view.limit}", state, str(view.waiting), "", ""))
        rows += [
            ("", str(one.units), "", "", f"{one.name} {one.session_id}".strip(), f"{one.machine} {one.disk}".strip())
            for one in view.holders
        ]
    print_table(("RESOURCE", "USED", "STATE", "WAITING", "SESSION", "DISK"), rows)
    return 0
