"""`point list | show | delete`."""

from __future__ import annotations

import argparse

from vbrcore.cli import parser
from vbrcore.cli.api import operations, types
from vbrcore.cli.context import call, connect
from vbrcore.cli.follow import follow
from vbrcore.cli.output import clean, moment, print_fields, print_json, print_table, size
from vbrcore.cli.parser import Nouns, Parser


def add_parser(nouns: Nouns[Parser]) -> None:
    verbs = parser.noun(nouns, "point", "point list --job nightly", "point show POINT", "point delete POINT")
    listing = parser.verb(
        verbs, "list", _list, "list restore points, oldest first", "point list --job nightly --machine web-1 --json"
    )
    listing.add_argument("--job", default="", metavar="NAME", help="only points of this job")
    listing.add_argument("--machine", default="", metavar="NAME", help="only points of this machine")
    show = parser.verb(verbs, "show", _show, "show a restore point and its disks", "point show POINT")
    show.add_argument("point", metavar="POINT", help="a point id")
    delete = parser.verb(verbs, "delete", _delete, "delete restore points", "point delete POINT POINT")
    delete.add_argument("points", nargs="+", metavar="POINT", help="point ids")


def _list(args: argparse.Namespace) -> int:
    views = call(args, operations.POINT_LIST, types.PointQuery(job=args.job, machine=args.machine))
    if args.json:
        print_json(views)
        return 0
    rows = [(v.point_id, v.job, v.machine, v.kind, moment(v.created), _disks(v)) for v in views]
    print_table(("POINT", "JOB", "MACHINE", "KIND", "CREATED", "DISKS"), rows)
    return 0


def _show(args: argparse.Namespace) -> int:
    view = call(args, operations.POINT_SHOW, types.ByName(args.point))
    if args.json:
        print_json(view)
        return 0
    print_fields(
        {
            "point": view.point_id,
            "job": view.job,
            "machine": view.machine,
            "kind": view.kind,
            "created": moment(view.created),
            "repository": view.repository,
            "disks": _disks(view),
        }
    )
    for warning in view.warnings:
        print(f"warning: {clean(warning)}")
    return 0


def _delete(args: argparse.Namespace) -> int:
    with connect(args) as client:
        return follow(client, operations.POINT_DELETE, types.PointDelete(tuple(args.points)), as_json=args.json)


def _disks(view: types.PointView) -> str:
    return ", ".join(f"{disk.name} ({size(disk.size_bytes)})" for disk in view.disks)
