"""`credential add | list | remove`."""

from __future__ import annotations

import argparse
import getpass
import sys

from vbrcore.cli import parser, paths
from vbrcore.cli.api import errors, operations, types
from vbrcore.cli.context import call
from vbrcore.cli.output import print_json, print_table
from vbrcore.cli.parser import Nouns, Parser


def add_parser(nouns: Nouns[Parser]) -> None:
    verbs = parser.noun(
        nouns, "credential", "credential add vcenter --username backup --password-file prompt", "credential list"
    )
    add = parser.verb(
        verbs,
        "add",
        _add,
        "seal an account's password under a name",
        "credential add vcenter --username backup --password-file prompt",
        "credential add vcenter --username backup --password-file ./password",
    )
    add.add_argument("name", metavar="NAME")
    add.add_argument("--username", required=True, metavar="USER")
    add.add_argument(
        "--password-file",
        required=True,
        metavar="FILE|prompt",
        help="file with the password, or the word prompt to type it; never on the command line, where others see it",
    )
    parser.verb(verbs, "list", _list, "list credentials, without their secrets", "credential list --json")
    remove = parser.verb(verbs, "remove", _remove, "remove a credential", "credential remove vcenter")
    remove.add_argument("name", metavar="NAME")


def _add(args: argparse.Namespace) -> int:
    request = types.CredentialAdd(name=args.name, username=args.username, password=_password(args.password_file))
    view = call(args, operations.CREDENTIAL_ADD, request)
    if args.json:
        print_json(view)
    else:
        print(f"credential {view.name} added")
    return 0


def _password(source: str) -> str:
    if source != "prompt":
        return paths.secret_file(source)
    if not sys.stdin.isatty():
        raise errors.UsageError("--password-file prompt needs a terminal: give a file instead")
    return getpass.getpass()


def _list(args: argparse.Namespace) -> int:
    views = call(args, operations.CREDENTIAL_LIST, types.Nothing())
    if args.json:
        print_json(views)
    else:
        print_table(("NAME", "USER"), [(v.name, v.username) for v in views])
    return 0


def _remove(args: argparse.Namespace) -> int:
    reply = call(args, operations.CREDENTIAL_REMOVE, types.ByName(args.name))
    if args.json:
        print_json(reply)
    else:
        print(f"credential {args.name} removed")
    return 0
