"""`ps`: who was started by whom."""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Iterator, Sequence

from vbrcore.cli import parser
from vbrcore.cli.api import operations, types
from vbrcore.cli.context import call
from vbrcore.cli.output import print_json, print_table, size
from vbrcore.cli.parser import NOUNS, Nouns, Parser


def add_parser(nouns: Nouns[Parser]) -> None:
    parser.verb(nouns, "ps", _ps, NOUNS["ps"], "ps", "ps --json")


def _ps(args: argparse.Namespace) -> int:
    views = call(args, operations.PROCESS_LIST, types.Nothing())
    if args.json:
        print_json(views)
        return 0
    rows = [
        (
            "  " * depth + v.kind + (f" ({v.role})" if v.kind == "mover" else ""),
            str(v.pid),
            v.server,
            v.job_name or "-",
            v.session_id or "-",
            v.task_id or "-",
            v.disk or "-",
            f"{v.cpu_percent:.0f} %",
            size(v.memory_bytes),
            v.log_path or "-",
        )
        for depth, v in tree(views)
    ]
    print_table(("PROCESS", "PID", "SERVER", "JOB", "SESSION", "TASK", "DISK", "CPU", "MEMORY", "LOG"), rows)
    return 0


def tree(views: Sequence[types.ProcessView]) -> Iterator[tuple[int, types.ProcessView]]:
    """Yield each process after its parent, with its depth; one whose parent is not listed is a root.

    A pid means something on its own server only; a transport elsewhere hangs on its manager by the session.
    """
    pids = {(view.server, view.pid) for view in views}
    managers = {view.session_id: view for view in views if view.kind == "job-manager"}
    children: dict[tuple[str, int] | None, list[types.ProcessView]] = defaultdict(list)
    for view in views:
        parent: tuple[str, int] | None = (view.server, view.parent_pid)
        if parent not in pids or view.parent_pid == view.pid:
            manager = managers.get(view.session_id) if view.kind == "transport" else None
            parent = (manager.server, manager.pid) if manager else None
        children[parent].append(view)

    def walk(parent: tuple[str, int] | None, depth: int) -> Iterator[tuple[int, types.ProcessView]]:
        for view in children[parent]:
            yield depth, view
            yield from walk((view.server, view.pid), depth + 1)

    yield from walk(None, 0)
