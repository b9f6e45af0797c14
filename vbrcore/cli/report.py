"""Errors for people and for programs, on the error output."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from vbrcore.cli.api import errors
from vbrcore.cli.output import print_json, say

if TYPE_CHECKING:
    from vbrcore.api.types import TaskView


def report(info: errors.ErrorInfo, *, as_json: bool, tasks: Sequence[TaskView] = ()) -> int:
    """Print one error, with the tasks that failed, and return its exit code."""
    if as_json:
        failed = [
            {"machine": task.machine, "disk": task.disk, "code": task.error.code, "message": task.error.message}
            for task in tasks
            if task.error is not None
        ]
        fields = {
            "code": info.code,
            "message": info.message,
            "hint": info.hint,
            "retryable": info.retryable,
            "exit_code": info.exit_code,
        }
        print_json({"error": fields | ({"tasks": failed} if failed else {})}, to_stderr=True)
        return info.exit_code
    for task in tasks:
        if task.error is not None:
            say(f"{task.machine} / {task.disk}: {task.error.code}: {task.error.message}")
            if task.error.hint:
                say(f"  hint: {task.error.hint}")
    say(f"error: {info.message}")
    if info.hint:
        say(f"hint: {info.hint}")
    return info.exit_code


def report_exception(error: Exception, *, as_json: bool) -> int:
    """Print any exception as an error. VBRCORE_DEBUG in the environment adds the stack."""
    if os.environ.get("VBRCORE_DEBUG"):
        import traceback  # noqa: PLC0415 - for developers only

        traceback.print_exception(error, file=sys.stderr)
    if isinstance(error, OSError) and isinstance(error.filename, str):
        # A file that the user named and this process could not use.
        unusable = errors.FileUnusable(f"{error.filename}: {error.strerror}")
        return report(unusable.info(), as_json=as_json)
    return report(errors.info_of(error), as_json=as_json)
