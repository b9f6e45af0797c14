"""`session list | show | log`."""

from __future__ import annotations

import argparse
import json
import sys
import time
from datetime import UTC, datetime

from vbrcore.cli import parser
from vbrcore.cli.api import operations, types
from vbrcore.cli.context import call, connect
from vbrcore.cli.health import print_report
from vbrcore.cli.output import clean, duration, moment, print_fields, print_json, print_table, size
from vbrcore.cli.parser import Nouns, Parser
from vbrcore.cli.progress import because, reason_of, task_name

_FOLLOW_DELAY_S = 0.5


def add_parser(nouns: Nouns[Parser]) -> None:
    verbs = parser.noun(
        nouns, "session", "session list --job nightly", "session show SESSION", "session log SESSION --follow"
    )
    listing = parser.verb(verbs, "list", _list, "list sessions, newest first", "session list --job nightly --limit 10")
    listing.add_argument("--job", default="", metavar="NAME", help="only sessions of this job")
    listing.add_argument("--limit", type=int, default=100, metavar="N", help="at most so many (%(default)s)")
    show = parser.verb(verbs, "show", _show, "show a session and its tasks", "session show SESSION")
    show.add_argument("session", metavar="SESSION", help="a session id")
    log = parser.verb(
        verbs,
        "log",
        _log,
        "print the log of a session; with --json an object a line",
        "session log SESSION",
        "session log SESSION --follow --json",
    )
    log.add_argument("session", metavar="SESSION", help="a session id")
    log.add_argument("--follow", action="store_true", help="go on until the session ends")


def _list(args: argparse.Namespace) -> int:
    views = call(args, operations.SESSION_LIST, types.SessionQuery(job=args.job, limit=args.limit))
    if args.json:
        print_json(views)
        return 0
    rows = [
        (
            v.session_id,
            v.name,
            v.kind,
            v.result if v.state == "ended" else v.state,
            moment(v.created),
            duration(v.duration_s),
            size(v.totals.read_bytes),
            size(v.totals.stored_bytes),
        )
        for v in views
    ]
    print_table(("SESSION", "NAME", "KIND", "RESULT", "CREATED", "DURATION", "READ", "STORED"), rows)
    return 0


def _show(args: argparse.Namespace) -> int:
    view = call(args, operations.SESSION_SHOW, types.ByName(args.session))
    if args.json:
        print_json(view)
        return 0
    print_fields(
        {
            "session": view.session_id,
            "name": view.name,
            "kind": view.kind,
            "state": view.state + ("" if view.error else because(view)),
            "result": view.result if view.state == "ended" else "",
            "created": moment(view.created),
            "duration": duration(view.duration_s),
            "read": size(view.totals.read_bytes),
            "transferred": size(view.totals.transferred_bytes),
            "stored": size(view.totals.stored_bytes),
            "error": f"{view.error.code}: {view.error.message}" if view.error else "",
            "hint": view.error.hint if view.error else "",
        }
    )
    for warning in view.warnings:
        print(f"warning: {clean(warning)}")
    rows = [
        (
            task_name(task),
            task.state,
            f"{task.server} {task.mode}".strip() or "-",
            size(task.size_bytes),
            size(task.totals.read_bytes),
            size(task.totals.transferred_bytes),
            "; ".join(remark for remark in (reason_of(task), task.why, *task.warnings) if remark),
        )
        for task in view.tasks
    ]
    if rows:
        print()
    print_table(("DISK", "STATE", "READ BY", "SIZE", "READ", "TRANSFERRED", "REMARKS"), rows)
    if view.report:
        print()
        print_report(view.report)
    return 0


def _log(args: argparse.Namespace) -> int:
    """With --json the lines of the log as they are: an object a line, because a log may be long or never end."""
    offset = 0
    with connect(args) as client:
        while True:
            chunk = client.call(operations.SESSION_LOG, types.LogQuery(args.session, offset))
            offset = chunk.next_offset
            for line in chunk.lines:
                print(line if args.json else _for_people(line))
            if chunk.ended or not (chunk.lines or args.follow):
                return 0
            if not chunk.lines:
                sys.stdout.flush()
                time.sleep(_FOLLOW_DELAY_S)


def _for_people(line: str) -> str:
    fields = json.loads(line)
    stamp = datetime.fromtimestamp(fields["time"], UTC).astimezone().strftime("%H:%M:%S.%f")[:-3]
    place = " / ".join(part for part in (fields.get("machine", ""), fields.get("disk", "")) if part)
    text = f"{place}: {fields['message']}" if place else fields["message"]
    return clean(f"{stamp} {fields['level']:<7} {fields['kind']}: {text}")
