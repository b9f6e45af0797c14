"""`job full | fulls | upkeep | compact`: how a job's chains are shaped and kept in order."""

from __future__ import annotations

import argparse

from vbrcore.cli import parser
from vbrcore.cli.api import errors, operations, types
from vbrcore.cli.api import job as model
from vbrcore.cli.context import call, connect
from vbrcore.cli.follow import follow
from vbrcore.cli.output import print_json
from vbrcore.cli.parser import Nouns, Parser

_DAYS_HELP = "days, e.g. sat, 'first sun', 'last sat', 1, or several divided by commas"


def add_verbs(verbs: Nouns[Parser]) -> None:
    full = parser.verb(
        verbs,
        "full",
        _full,
        "run a job now and begin a generation that needs nothing older",
        "job full nightly --synthetic",
        "job full nightly --active --json",
    )
    full.add_argument("name", metavar="NAME")
    kind = full.add_mutually_exclusive_group()
    kind.add_argument("--active", action="store_true", help="read everything again from the machines (the default)")
    kind.add_argument("--synthetic", action="store_true", help="make it of what is stored, after an increment")
    fulls = parser.verb(
        verbs,
        "fulls",
        _fulls,
        "say on which days a job's session begins a generation",
        "job fulls nightly --synthetic sat --active 'first sun'",
        "job fulls nightly --none",
    )
    fulls.add_argument("name", metavar="NAME")
    fulls.add_argument("--none", action="store_true", help="forever-incremental")
    _add_rules(fulls, "--active", "--synthetic")
    upkeep = parser.verb(
        verbs,
        "upkeep",
        _upkeep,
        "say when space is given back and synthetic fulls are made",
        "job upkeep nightly --window 06:00-20:00",
        "job upkeep nightly --any-time",
    )
    upkeep.add_argument("name", metavar="NAME")
    when = upkeep.add_mutually_exclusive_group(required=True)
    when.add_argument("--window", metavar="HH:MM-HH:MM", help="only then, each day; may pass midnight")
    when.add_argument("--any-time", action="store_true", help="at the end of each session")
    upkeep.add_argument("--zone", metavar="ZONE", help="IANA name of the time zone (this machine's)")
    compact = parser.verb(
        verbs,
        "compact",
        _compact,
        "move what lives of a job's backup files into as few as it needs, and give back the rest",
        "job compact nightly",
        "job compact nightly --rewrite --json",
    )
    compact.add_argument("name", metavar="NAME")
    compact.add_argument("--rewrite", action="store_true", help="copy all of it, in the order of the disks")


def add_options(command: argparse.ArgumentParser) -> None:
    """Add the shape of a job's chains."""
    command.add_argument("--per-machine", action="store_true", help="a chain of its own for each machine")
    _add_rules(command, "--active-full", "--synthetic-full")


def _add_rules(command: argparse.ArgumentParser, active: str, synthetic: str) -> None:
    command.add_argument(active, dest="active", metavar="DAYS", default="", help=f"read all again: {_DAYS_HELP}")
    command.add_argument(
        synthetic, dest="synthetic", metavar="DAYS", default="", help="likewise, of what is stored: no source is read"
    )
    command.add_argument("--full-zone", metavar="ZONE", help="IANA name of the zone of these days (this machine's)")


def fulls_of(args: argparse.Namespace) -> model.Fulls:
    """Return what the options say."""
    from vbrcore.cli.zone import local_zone  # noqa: PLC0415 - zone data is of no use to --help

    if not args.active and not args.synthetic:
        return model.Fulls()
    return model.Fulls(active=args.active, synthetic=args.synthetic, zone=args.full_zone or local_zone())


def summary(fulls: model.Fulls) -> str:
    """Return how generations begin, for people."""
    rules = [
        f"{kind} full on {days}" for kind, days in (("active", fulls.active), ("synthetic", fulls.synthetic)) if days
    ]
    return f"{', '.join(rules)} ({fulls.zone})" if rules else "forever-incremental"


def window_summary(window: model.Window) -> str:
    """Return when upkeep runs, for people."""
    return f"{window.begin} to {window.end} ({window.zone})" if window.begin else "at the end of each session"


def _full(args: argparse.Namespace) -> int:
    request = types.JobFull(args.name, "synthetic" if args.synthetic else "active")
    with connect(args) as client:
        return follow(client, operations.JOB_FULL, request, as_json=args.json)


def _fulls(args: argparse.Namespace) -> int:
    if args.none == bool(args.active or args.synthetic):
        raise errors.UsageError("say --active, --synthetic or both, or --none")
    view = call(args, operations.JOB_FULLS, types.JobFulls(args.name, fulls_of(args)))
    return _print(args, view, summary(view.fulls))


def _upkeep(args: argparse.Namespace) -> int:
    from vbrcore.cli.zone import local_zone  # noqa: PLC0415 - zone data is of no use to --help

    window = model.Window()
    if args.window is not None:
        begin, dash, end = args.window.partition("-")
        if not dash or not begin or not end:
            raise errors.UsageError(f"{args.window} is no window of the form HH:MM-HH:MM")
        window = model.Window(begin, end, args.zone or local_zone())
    view = call(args, operations.JOB_UPKEEP, types.JobUpkeep(args.name, window))
    return _print(args, view, f"upkeep {window_summary(view.upkeep)}")


def _print(args: argparse.Namespace, view: types.JobView, text: str) -> int:
    if args.json:
        print_json(view)
    else:
        print(f"job {view.name}: {text}")
    return 0


def _compact(args: argparse.Namespace) -> int:
    with connect(args) as client:
        request = types.JobCompact(args.name, rewrite=args.rewrite)
        return follow(client, operations.JOB_COMPACT, request, as_json=args.json)
