"""The data mover: one small program; its role says whether it reads, writes a chain, or restores.

`python -m vbrcore mover --role R --job-id J --session-id S --task-id T --disk D`, always a child of a transport, which
holds the other ends of its stdin and stdout. What to do arrives there, never on the command line.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import msgspec

from vbrcore.model.errors import UsageError, info_of
from vbrcore.model.times import timing_from
from vbrcore.mover.control import Control
from vbrcore.mover.keptlogs import KeptLog
from vbrcore.mover.messages import Failed
from vbrcore.mover.process import die_with_parent, parse_options


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The command line. The ids are there to be seen in a process list."""

    role: Literal["source", "target", "restore", "copy", "storage", "sink"]
    job_id: str
    session_id: str
    task_id: str = ""
    disk: str = ""
    parent_pid: str = ""
    timing: str = ""
    log: str = ""


def main(argv: Sequence[str]) -> int:
    """Run a mover until its work is done; return its exit code."""
    try:
        options = parse_options(argv, Options)
        timing = timing_from(options.timing)
    except (UsageError, ValueError) as error:
        print(f"mover: {error}", file=sys.stderr)  # noqa: T201 - there is no other channel yet
        return UsageError.exit_code
    if options.parent_pid:
        die_with_parent(int(options.parent_pid))
    control = Control(timing, KeptLog(Path(options.log)) if options.log else None)
    control.start()
    try:
        _run(options.role, control)
    except Exception as error:  # the process ends here, and its manager must learn why, also of a bug
        control.send(Failed(info_of(error)))
        if info_of(error).code == "internal_error":
            raise
        return info_of(error).exit_code
    return 0


def _run(role: str, control: Control) -> None:
    """Import only what this role needs: a source knows nothing of chains, a target nothing of plugins."""
    match role:
        case "source":
            from vbrcore.mover.source import run  # noqa: PLC0415
        case "target":
            from vbrcore.mover.target import run  # noqa: PLC0415
        case "copy":
            from vbrcore.mover.copying import run  # noqa: PLC0415
        case "storage":
            from vbrcore.mover.storekeeper import run  # noqa: PLC0415
        case "sink":
            from vbrcore.mover.sink import run  # noqa: PLC0415
        case _:
            from vbrcore.mover.restore import run  # noqa: PLC0415
    run(control)
