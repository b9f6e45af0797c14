"""`job schedule` and `schedule preview`: when jobs run by themselves."""

from __future__ import annotations

import argparse
from typing import Literal

from vbrcore.cli import parser, upkeep, values
from vbrcore.cli.api import errors, operations, types
from vbrcore.cli.api import job as model
from vbrcore.cli.context import call
from vbrcore.cli.output import duration, moment, print_json, print_table, say
from vbrcore.cli.parser import Nouns, Parser

_Kind = Literal["none", "daily", "every", "days", "cron", "after", "continuous"]
_PAUSE_S = 60


def add_parser(nouns: Nouns[Parser]) -> None:
    verbs = parser.noun(nouns, "schedule", "schedule preview nightly --count 20")
    preview = parser.verb(
        verbs,
        "preview",
        _preview,
        "show the next moments at which a job is due by the clock",
        "schedule preview nightly",
        "schedule preview nightly --count 3 --json",
    )
    preview.add_argument("name", metavar="NAME")
    preview.add_argument("--count", type=int, default=10, metavar="N", help="how many (%(default)s)")


def add_verb(verbs: Nouns[Parser]) -> None:
    """Add `job schedule`."""
    command = parser.verb(
        verbs,
        "schedule",
        _schedule,
        "say when a job runs by itself; what is not said is as for a new job, but for the priority",
        "job schedule nightly --daily 22:00 --window 20:00-06:00 --retries 3",
        "job schedule monthly --days 'last sat' --at 21:30",
        "job schedule often --every 15m",
        "job schedule office --cron '0 8-18 * * mon-fri' --zone Europe/Berlin",
        "job schedule offsite --after nightly",
        "job schedule nightly --none",
    )
    command.add_argument("name", metavar="NAME")
    _add_kinds(command)
    command.add_argument("--at", metavar="HH:MM", help="the time, with --days")
    command.add_argument("--pause", metavar="TIME", help=f"with --continuous ({_PAUSE_S}s)")
    command.add_argument("--any-result", action="store_true", help="with --after: also when that job has failed")
    command.add_argument("--window", metavar="HH:MM-HH:MM", help="start machines only then; may pass midnight")
    command.add_argument("--hard-window", action="store_true", help="at its end, stop the machines that run")
    command.add_argument("--no-catch-up", action="store_true", help="do not make up for a run that was missed")
    command.add_argument("--retries", type=int, metavar="N", help="of the machines that failed (3)")
    command.add_argument("--retry-wait", metavar="TIME", default="10m", help="before each retry (%(default)s)")
    command.add_argument("--priority", choices=("high", "regular", "low"), help="where jobs wait for the same slots")
    command.add_argument("--zone", metavar="ZONE", help="IANA name of the time zone of all times (this machine's)")


def _add_kinds(command: Parser) -> None:
    when = command.add_mutually_exclusive_group(required=True)
    when.add_argument("--daily", metavar="HH:MM", help="once a day")
    when.add_argument("--days", metavar="DAYS", help="on days, e.g. sat, 'last sat', 1, several divided by commas")
    when.add_argument("--every", metavar="TIME", help="again and again, e.g. 15m, 4h, 1d")
    when.add_argument("--cron", metavar="TEXT", help="minute, hour, day, month and day of the week")
    when.add_argument("--after", metavar="JOB", help="whenever that job has succeeded, also with warnings")
    when.add_argument("--continuous", action="store_true", help="again as soon as it has ended")
    when.add_argument("--none", action="store_true", help="only when asked")


def schedule_of(args: argparse.Namespace) -> model.Schedule:
    """Return what the options say. Raises `UsageError` for those that do not go together."""
    from vbrcore.cli.zone import local_zone  # noqa: PLC0415 - zone data is of no use to --help

    for given, option, wanted, needs in (
        (args.at is not None, "--at", args.days is not None, "--days"),
        (args.pause is not None, "--pause", args.continuous, "--continuous"),
        (args.any_result, "--any-result", args.after is not None, "--after"),
        (args.hard_window, "--hard-window", args.window is not None, "--window"),
    ):
        if given and not wanted:
            raise errors.UsageError(f"{option} goes with {needs} only")
    if args.days is not None and args.at is None:
        raise errors.UsageError("--days needs a time of day: --at HH:MM")
    zone = args.zone or local_zone()
    return model.Schedule(
        kind=_kind(args),
        daily=args.daily or args.at or "",
        every_s=_every_s(args),
        zone=zone,
        days=args.days or "",
        cron=args.cron or "",
        after=args.after or "",
        after_any=args.any_result,
        window=upkeep.window_of(args.window, zone),
        hard_window=args.hard_window,
        catch_up=not args.no_catch_up,
        retries=3 if args.retries is None else args.retries,
        retry_wait_s=values.duration_s(args.retry_wait),
    )


def _kind(args: argparse.Namespace) -> _Kind:
    kinds: tuple[_Kind, ...] = ("daily", "days", "every", "cron", "after")
    return (
        "continuous" if args.continuous else next((kind for kind in kinds if getattr(args, kind) is not None), "none")
    )


def _every_s(args: argparse.Namespace) -> int:
    if args.continuous:
        return values.duration_s(args.pause) if args.pause is not None else _PAUSE_S
    return values.duration_s(args.every) if args.every is not None else 0


def summary(schedule: model.Schedule) -> str:
    """Return when a job runs, for people."""
    if schedule.kind == "none":
        return "runs only when asked"
    said = [_when(schedule)]
    if schedule.window.begin:
        ends = ", what runs at its end is stopped" if schedule.hard_window else ""
        said.append(f"window {upkeep.window_summary(schedule.window)}{ends}")
    if not schedule.catch_up:
        said.append("missed runs are not made up for")
    if schedule.kind != "continuous":
        waits = f", {duration(schedule.retry_wait_s)} apart" if schedule.retries else ""
        said.append(f"{schedule.retries or 'no'} {'retry' if schedule.retries == 1 else 'retries'}{waits}")
    return "; ".join(said)


def _when(schedule: model.Schedule) -> str:
    match schedule.kind:
        case "daily":
            return f"daily at {schedule.daily} ({schedule.zone})"
        case "days":
            return f"on {schedule.days} at {schedule.daily} ({schedule.zone})"
        case "every":
            return f"every {duration(schedule.every_s)}"
        case "cron":
            return f"cron {schedule.cron} ({schedule.zone})"
        case "after":
            return f"after job {schedule.after}{', however it ends' if schedule.after_any else ''}"
        case _:
            return f"again {duration(schedule.every_s)} after it has ended"


def warn(view: types.JobView) -> None:
    """Say on the error output what is wrong with a job."""
    for warning in view.warnings:
        say(f"warning: {warning}")


def _schedule(args: argparse.Namespace) -> int:
    view = call(args, operations.JOB_SCHEDULE, types.JobSchedule(args.name, schedule_of(args), args.priority))
    if args.json:
        print_json(view)
    else:
        print(f"job {view.name} scheduled: {summary(view.schedule)}")
    warn(view)
    return 0


def _preview(args: argparse.Namespace) -> int:
    moments = call(args, operations.SCHEDULE_PREVIEW, types.SchedulePreview(args.name, args.count))
    if args.json:
        print_json(moments)
    else:
        print_table(("HERE", "IN THE SCHEDULE'S ZONE"), [(moment(one.at), one.local) for one in moments])
    return 0
