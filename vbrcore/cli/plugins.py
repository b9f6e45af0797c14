"""`plugins list`."""

from __future__ import annotations

import argparse

from vbrcore.cli import parser
from vbrcore.cli.api import operations, types
from vbrcore.cli.context import call
from vbrcore.cli.output import print_json, print_table
from vbrcore.cli.parser import Nouns, Parser


def add_parser(nouns: Nouns[Parser]) -> None:
    verbs = parser.noun(nouns, "plugins", "plugins list")
    parser.verb(verbs, "list", _list, "list installed plugins and what they can do", "plugins list --json")


def _list(args: argparse.Namespace) -> int:
    views = call(args, operations.PLUGIN_LIST, types.Nothing())
    if args.json:
        print_json(views)
        return 0
    rows = [
        (v.id, f"{v.distribution} {v.version}", v.api, v.state, v.proxy_mode, v.reason or " ".join(v.capabilities))
        for v in views
    ]
    print_table(("ID", "DISTRIBUTION", "API", "STATE", "PROXY MODE", "CAPABILITIES OR REASON"), rows)
    return 0
