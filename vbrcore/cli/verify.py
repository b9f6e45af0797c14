"""`verify POINT`."""

from __future__ import annotations

import argparse

from vbrcore.cli import parser
from vbrcore.cli.api import operations, types
from vbrcore.cli.context import connect
from vbrcore.cli.follow import follow
from vbrcore.cli.parser import NOUNS, Nouns, Parser


def add_parser(nouns: Nouns[Parser]) -> None:
    verify = parser.verb(nouns, "verify", _verify, NOUNS["verify"], "verify POINT", "verify POINT --deep")
    verify.add_argument("point", metavar="POINT", help="a point id")
    verify.add_argument("--deep", action="store_true", help="digests of all blocks too, not only checksums")


def _verify(args: argparse.Namespace) -> int:
    with connect(args) as client:
        return follow(client, operations.VERIFY, types.Verify(args.point, deep=args.deep), as_json=args.json)
