"""`service run | status | stop | install`."""

from __future__ import annotations

import argparse
import os
import select
import sys
from typing import TYPE_CHECKING

from vbrcore.cli import parser, unit
from vbrcore.cli.api import errors, operations, types
from vbrcore.cli.context import connect
from vbrcore.cli.output import moment, print_fields, print_json
from vbrcore.cli.parser import Nouns, Parser

if TYPE_CHECKING:
    from vbrcore.api.client import Client

_NOT_RUNNING = "service_unavailable"
_STOPPING = "service_stopping"


def add_parser(nouns: Nouns[Parser]) -> None:
    verbs = parser.noun(nouns, "service", "service status", "service stop", "service install --user")
    parser.verb(verbs, "run", _run, "run the service in the foreground", "service run --home /var/lib/vbrcore")
    parser.verb(verbs, "status", _status, "show the service; starts none", "service status --json")
    stop = parser.verb(
        verbs, "stop", _stop, "stop running sessions gracefully, then the service", "service stop", "service stop --now"
    )
    stop.add_argument("--now", action="store_true", help="do not let started machines finish")
    install = parser.verb(
        verbs,
        "install",
        _install,
        "write a systemd unit and enable it, so that schedules run",
        "service install",
        "service install --user",
        "service install --print",
    )
    install.add_argument("--user", action="store_true", help="for this account instead of the whole system")
    install.add_argument("--print", action="store_true", dest="only_print", help="print the unit, change nothing")


def _run(args: argparse.Namespace) -> int:
    """Become the service: its program is a floor below what the command line may know."""
    home = ["--home", args.home] if args.home else []
    os.execv(sys.executable, [sys.executable, "-m", "vbrcore", "service", "run", *home])  # noqa: S606


def _status(args: argparse.Namespace) -> int:
    with connect(args, start=False) as client:
        view = client.call(operations.SERVICE_SHOW, types.Nothing())
    if args.json:
        print_json(view)
        return 0
    print_fields(
        {
            "version": view.version,
            "pid": str(view.pid),
            "home": view.home,
            "started": moment(view.started),
            "installed": "yes" if view.installed else "no: schedules run only while something is running",
            "sessions": str(view.sessions_running),
        }
    )
    return 0


def _stop(args: argparse.Namespace) -> int:
    """Return when the service is gone; where none runs there is nothing to do."""
    with connect(args, start=False) as client:
        try:
            pid = client.call(operations.SERVICE_SHOW, types.Nothing()).pid
            process = os.pidfd_open(pid)
        except ProcessLookupError:
            process = None
        except errors.VbrError as error:
            if error.code != _NOT_RUNNING:
                raise
            process = None
        if process is not None:
            try:
                _stop_and_wait(client, process, now=args.now)
            finally:
                os.close(process)
    if args.json:
        print_json({"stopped": process is not None})
    else:
        print("no service runs" if process is None else "service stopped")
    return 0


def _stop_and_wait(client: Client, process: int, *, now: bool) -> None:
    """Stop the service and wait until its process has ended. A service that ends before it answers has stopped too."""
    try:
        client.call(operations.SERVICE_STOP, types.ServiceStop(now=now))
    except errors.VbrError as error:
        if error.code not in {_NOT_RUNNING, _STOPPING}:
            raise
    select.select([process], [], [])


def _install(args: argparse.Namespace) -> int:
    text = unit.unit_text(args.home, for_user=args.user)
    if args.only_print:
        print(text, end="")
        return 0
    installed = unit.install(text, for_user=args.user)
    if args.json:
        print_json(installed)
        return 0
    print(f"written: {installed['unit']}")
    for step in installed["next_steps"]:
        print(step)
    return 0
