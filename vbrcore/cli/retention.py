"""`retention preview | apply`, and the options of jobs that say what is kept."""

from __future__ import annotations

import argparse

from vbrcore.cli import parser
from vbrcore.cli.api import operations, types
from vbrcore.cli.api import retention as model
from vbrcore.cli.context import call, connect
from vbrcore.cli.follow import follow
from vbrcore.cli.output import clean, moment, print_json, print_table
from vbrcore.cli.parser import Nouns, Parser

_DEFAULT_POINTS = 14


def add_parser(nouns: Nouns[Parser]) -> None:
    verbs = parser.noun(nouns, "retention", "retention preview nightly", "retention apply nightly")
    preview = parser.verb(
        verbs,
        "preview",
        _preview,
        "show which points would go now, when, and why the others stay",
        "retention preview nightly --json",
    )
    preview.add_argument("name", metavar="JOB")
    apply = parser.verb(
        verbs,
        "apply",
        _apply,
        "forget now what a backup session would forget at its end",
        "retention apply nightly",
        "retention apply nightly --trust-clock",
    )
    apply.add_argument("name", metavar="JOB")
    apply.add_argument("--trust-clock", action="store_true", help="confirm that this machine's clock is right")


def add_options(command: argparse.ArgumentParser) -> None:
    """Add what a job keeps. A point stays while any of the rules keeps it."""
    rules = command.add_argument_group(
        "what is kept", "A point stays while any rule keeps it; the newest 3 of each machine always stay."
    )
    rules.add_argument(
        "--keep",
        type=int,
        metavar="N",
        help=f"the newest N points of each machine ({_DEFAULT_POINTS} without --keep-days)",
    )
    rules.add_argument("--keep-days", type=int, default=0, metavar="N", help="all points of the last N days")
    rules.add_argument("--keep-weekly", type=int, default=0, metavar="N", help="the newest point of each of N weeks")
    rules.add_argument("--keep-monthly", type=int, default=0, metavar="N", help="likewise months")
    rules.add_argument("--keep-yearly", type=int, default=0, metavar="N", help="likewise years")
    rules.add_argument(
        "--deleted-after-days",
        type=int,
        default=0,
        metavar="N",
        help="all points of a machine that is gone go when the newest is older than N days",
    )
    rules.add_argument("--time-zone", metavar="ZONE", help="IANA name of the zone of these days (this machine's)")


def retention_of(args: argparse.Namespace) -> model.Retention:
    """Return what the options say. Days alone turn the count off."""
    from vbrcore.cli.zone import local_zone  # noqa: PLC0415 - zone data is of no use to --help

    points = args.keep
    if points is None:
        points = 0 if args.keep_days else _DEFAULT_POINTS
    return model.Retention(
        keep_points=points,
        keep_days=args.keep_days,
        keep_weekly=args.keep_weekly,
        keep_monthly=args.keep_monthly,
        keep_yearly=args.keep_yearly,
        deleted_after_days=args.deleted_after_days,
        time_zone=args.time_zone or local_zone(),
    )


def summary(retention: model.Retention) -> str:
    """Return what is kept, for people."""
    rules = (
        ("points", retention.keep_points),
        ("days", retention.keep_days),
        ("weeks", retention.keep_weekly),
        ("months", retention.keep_monthly),
        ("years", retention.keep_yearly),
    )
    kept = ", ".join(f"{count} {what}" for what, count in rules if count) or "the newest 3 points"
    deleted = retention.deleted_after_days
    return kept + (f"; deleted machines {deleted} days" if deleted else "") + f" ({retention.time_zone})"


def _preview(args: argparse.Namespace) -> int:
    verdicts = call(args, operations.RETENTION_PREVIEW, types.ByName(args.name))
    if args.json:
        print_json(verdicts)
        return 0
    rows = [
        (
            v.point_id,
            v.machine,
            moment(v.created),
            "stays" if v.keep else "goes",
            clean("; ".join(r.text for r in v.reasons)),
        )
        for v in verdicts
    ]
    print_table(("POINT", "MACHINE", "CREATED", "VERDICT", "WHY"), rows)
    return 0


def _apply(args: argparse.Namespace) -> int:
    request = types.RetentionApply(args.name, trust_clock=args.trust_clock)
    with connect(args) as client:
        return follow(client, operations.RETENTION_APPLY, request, as_json=args.json)
