"""`network rule | list | remove`."""

from __future__ import annotations

import argparse

from vbrcore.cli import parser, values
from vbrcore.cli.api import network, operations, types
from vbrcore.cli.context import call
from vbrcore.cli.output import print_json, print_table, size
from vbrcore.cli.parser import Nouns, Parser


def add_parser(nouns: Nouns[Parser]) -> None:
    verbs = parser.noun(nouns, "network", "network rule london paris --rate-limit 50M", "network list")
    rule = parser.verb(
        verbs,
        "rule",
        _rule,
        "limit what all tasks together send between the servers of two sites",
        "network rule london paris --rate-limit 50M",
    )
    _add_sites(rule)
    rule.add_argument("--rate-limit", required=True, metavar="SIZE", help="bytes per second, e.g. 50M")
    parser.verb(verbs, "list", _list, "list the rules for pairs of sites", "network list --json")
    remove = parser.verb(verbs, "remove", _remove, "remove the rule of a pair of sites", "network remove london paris")
    _add_sites(remove)


def _add_sites(verb: Parser) -> None:
    verb.add_argument("site_a", metavar="SITE", help="a site of 'server list'; '' is that of servers without one")
    verb.add_argument("site_b", metavar="SITE", help="the other one, in any order; the same one: within that site")


def _rule(args: argparse.Namespace) -> int:
    request = network.NetworkRule(args.site_a, args.site_b, values.size_bytes(args.rate_limit))
    view = call(args, operations.NETWORK_RULE, request)
    if args.json:
        print_json(view)
    else:
        print(f"between {view.site_a or '-'} and {view.site_b or '-'}: {size(view.rate_limit_bytes_s)}/s")
    return 0


def _list(args: argparse.Namespace) -> int:
    views = call(args, operations.NETWORK_LIST, types.Nothing())
    if args.json:
        print_json(views)
    else:
        rows = [(view.site_a or "-", view.site_b or "-", f"{size(view.rate_limit_bytes_s)}/s") for view in views]
        print_table(("SITE", "SITE", "RATE LIMIT"), rows)
    return 0


def _remove(args: argparse.Namespace) -> int:
    reply = call(args, operations.NETWORK_REMOVE, network.Sites(args.site_a, args.site_b))
    if args.json:
        print_json(reply)
    else:
        print(f"no rule between {args.site_a or '-'} and {args.site_b or '-'} any more")
    return 0
