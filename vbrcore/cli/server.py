"""`server list`."""

from __future__ import annotations

import argparse

from vbrcore.cli import parser
from vbrcore.cli.api import operations, types
from vbrcore.cli.context import call
from vbrcore.cli.output import print_json, print_table
from vbrcore.cli.parser import Nouns, Parser


def add_parser(nouns: Nouns[Parser]) -> None:
    verbs = parser.noun(nouns, "server", "server list")
    parser.verb(verbs, "list", _list, "list managed servers, their roles and slots", "server list --json")


def _list(args: argparse.Namespace) -> int:
    views = call(args, operations.SERVER_LIST, types.Nothing())
    if args.json:
        print_json(views)
        return 0
    rows = [
        (
            v.name,
            " ".join(v.roles),
            f"{v.proxy_slots_used}/{v.proxy_slots}",
            f"{v.host_budget_used}/{v.host_budget}",
            v.site or "-",
        )
        for v in views
    ]
    print_table(("NAME", "ROLES", "PROXY SLOTS", "HOST BUDGET", "SITE"), rows)
    return 0
