"""`health check | schedule`, and what a check found, for people."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

from vbrcore.cli import parser
from vbrcore.cli.api import job as model
from vbrcore.cli.api import operations, types
from vbrcore.cli.context import call, connect
from vbrcore.cli.follow import conclude, wait
from vbrcore.cli.output import clean, print_json, size
from vbrcore.cli.parser import Nouns, Parser

_MOST_SHOWN = 100


def add_parser(nouns: Nouns[Parser]) -> None:
    verbs = parser.noun(nouns, "health", "health check nightly", "health schedule nightly --days 'first sat'")
    check = parser.verb(
        verbs,
        "check",
        _check,
        "read all that a job has stored and name what is damaged; exit code 20 where something is",
        "health check nightly",
        "health check nightly --deep --json",
        "health check nightly --point POINT",
    )
    check.add_argument("name", metavar="JOB")
    check.add_argument("--deep", action="store_true", help="digests of all contents too, not only checksums")
    check.add_argument("--point", default="", metavar="POINT", help="only what this point reaches")
    schedule = parser.verb(
        verbs,
        "schedule",
        _schedule,
        "say on which days a job's backups are checked, after its session",
        "health schedule nightly --days 'first sat'",
        "health schedule nightly --days sat --deep",
        "health schedule nightly --none",
    )
    schedule.add_argument("name", metavar="JOB")
    when = schedule.add_mutually_exclusive_group(required=True)
    when.add_argument("--days", metavar="RULE", help="e.g. sat, 'last sat', 1, several divided by commas")
    when.add_argument("--none", action="store_true", help="only when asked")
    schedule.add_argument("--deep", action="store_true", help="digests of all contents too")
    schedule.add_argument("--time-zone", metavar="ZONE", help="IANA name of the zone of these days (this machine's)")


def _check(args: argparse.Namespace) -> int:
    request = types.HealthCheck(args.name, deep=args.deep, point=args.point)
    with connect(args) as client:
        view = wait(client, operations.HEALTH_CHECK, request, as_json=args.json)
    if not args.json:
        print_report(view.report)
    return conclude(view, as_json=args.json)


def _schedule(args: argparse.Namespace) -> int:
    from vbrcore.cli.zone import local_zone  # noqa: PLC0415 - zone data is of no use to --help

    health = model.HealthSchedule()
    if not args.none:
        health = model.HealthSchedule(days=args.days, deep=args.deep, zone=args.time_zone or local_zone())
    view = call(args, operations.JOB_HEALTH, types.JobHealth(args.name, health))
    if args.json:
        print_json(view)
    else:
        print(f"job {view.name}: {summary(view.health)}")
    return 0


def summary(health: model.HealthSchedule) -> str:
    """Return when checks are made, for people."""
    if not health.days:
        return "checked only when asked"
    return f"{'deep check' if health.deep else 'check'} on {health.days} ({health.zone})"


def print_report(report: Mapping[str, Any]) -> None:
    """Print what was found in each chain, the first lines of much."""
    for chain in report.get("chains", ()):
        lines = _lines(chain)
        print(clean(f"{chain['directory']}: {size(chain['read_bytes'])} read, {_count(chain)}"))
        for line in lines[:_MOST_SHOWN]:
            print(clean(f"  {line}"))
        if len(lines) > _MOST_SHOWN:
            print(f"  and {len(lines) - _MOST_SHOWN} lines more; --json has all")


def _count(chain: Mapping[str, Any]) -> str:
    if not (chain["finding_count"] or chain["point_count"] or chain["files"]):
        return "no damage"
    return (
        f"{chain['finding_count']} damaged blocks and {len(chain['files'])} files with problems,"
        f" {chain['point_count']} points are not whole"
    )


def _lines(chain: Mapping[str, Any]) -> list[str]:
    lines = [f"file {one['file']}: {one['problem']}" for one in chain["files"]]
    for finding in chain["findings"]:
        where = finding["file"] or "no file has it"
        head = f"{finding['what']} {finding['digest'][:16] or '(several)'} ({where})"
        for place in finding["places"]:
            name = f"{place['machine']}/{place['disk']}".strip("/")
            at = f" at {_ranges(place['ranges'], place['range_count'])}" if place["ranges"] else ""
            lines.append(f"{head}: {name}{at}, in points {' '.join(place['points'])}")
        if not finding["places"]:
            lines.append(f"{head}: needed by no point")
    changed = [f"point {point['point_id']}: {point['problem']}" for point in chain["points"] if point["problem"]]
    return lines + changed


def _ranges(ranges: Sequence[Sequence[int]], count: int) -> str:
    shown = ", ".join(f"{offset}+{length}" for offset, length in ranges)
    return shown if count <= len(ranges) else f"{shown} and {count - len(ranges)} more ranges"
