"""`job edit`, and the options of a job that say which servers read its disks, how, and before whom."""

from __future__ import annotations

import argparse

from vbrcore.cli import parser
from vbrcore.cli.api import errors, jobs, operations, types
from vbrcore.cli.context import call
from vbrcore.cli.output import print_json
from vbrcore.cli.parser import Nouns, Parser

PRIORITIES = ("high", "regular", "low")


def add_verbs(verbs: Nouns[Parser]) -> None:
    edit = parser.verb(
        verbs,
        "edit",
        _edit,
        "change which servers read a job's disks, and before whom",
        "job edit nightly --proxy proxy1 --proxy proxy2",
        "job edit nightly --any-proxy --priority high",
    )
    edit.add_argument("name", metavar="NAME")
    add_options(edit)
    edit.add_argument("--any-proxy", action="store_true", help="every proxy that can")
    edit.add_argument("--no-wait-for-best-mode", action="store_true", help="read in a worse mode rather than wait")


def add_options(command: Parser) -> None:
    command.add_argument(
        "--proxy",
        action="append",
        metavar="NAME",
        dest="proxies",
        help="a server that may read its disks; may be repeated (every one that can)",
    )
    command.add_argument(
        "--wait-for-best-mode", action="store_true", help="rather wait than read in a worse transport mode"
    )
    command.add_argument("--priority", choices=PRIORITIES, help="among jobs that wait for the same slots (regular)")


def _edit(args: argparse.Namespace) -> int:
    if args.proxies and args.any_proxy:
        raise errors.UsageError("--proxy and --any-proxy exclude each other")
    if args.wait_for_best_mode and args.no_wait_for_best_mode:
        raise errors.UsageError("--wait-for-best-mode and --no-wait-for-best-mode exclude each other")
    request = jobs.JobEdit(
        name=args.name,
        priority=args.priority,
        proxies=() if args.any_proxy else tuple(args.proxies) if args.proxies else None,
        wait_for_best=True if args.wait_for_best_mode else False if args.no_wait_for_best_mode else None,
    )
    view = call(args, operations.JOB_EDIT, request)
    if args.json:
        print_json(view)
    else:
        print(f"job {view.name}: {summary(view)}, priority {view.priority}")
    return 0


def summary(view: types.JobView) -> str:
    """Return which servers read its disks, for people."""
    servers = f"read by {' '.join(view.proxies)}" if view.proxies else "read by every proxy that can"
    return servers + (", in the best mode only" if view.wait_for_best else "")
