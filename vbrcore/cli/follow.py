"""Waiting for a session: progress while it runs, Ctrl-C, and what is said at its end."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING, Self, TypeVar

from vbrcore.cli.api import errors, operations, types
from vbrcore.cli.output import duration, print_json, say, size
from vbrcore.cli.progress import Lines, Reporter
from vbrcore.cli.report import report

if TYPE_CHECKING:
    import msgspec

    from vbrcore.api.client import Client
    from vbrcore.api.operations import Operation

    Req = TypeVar("Req", bound=msgspec.Struct)

_FIRST_DELAY_S = 0.02
_LONGEST_DELAY_S = 0.5
_DELAY_GROWTH = 1.05  # so a delay is about a twentieth of what was waited already
_SERVICE_PATIENCE_S = 60.0  # a service that died is started again by the client; give up after this long
_STOPPING = "Stopping: started machines finish, no new one starts. Ctrl-C again stops at once."
_STOPPING_NOW = "Stopping now. Ctrl-C again leaves the session to itself."
_AWAY = frozenset({"service_unavailable", "service_stopping", "protocol_error"})


def follow(client: Client, operation: Operation[Req, types.SessionStarted], request: Req, *, as_json: bool) -> int:
    """Start a session, wait for it, print its result; return the exit code: 0 also with warnings."""
    return conclude(wait(client, operation, request, as_json=as_json), as_json=as_json)


def wait(
    client: Client,
    operation: Operation[Req, types.SessionStarted],
    request: Req,
    *,
    as_json: bool,
    watch: Callable[[], None] = lambda: None,
) -> types.SessionView:
    """Start a session and return it when it has ended. `watch` is called at each poll; its errors end the session.

    Ctrl-C stops the session gracefully, the second one now, the third one leaves it (`KeyboardInterrupt`).
    """
    delay_s = _FIRST_DELAY_S
    asked = 0
    with Interrupts() as interrupts, _reporter(as_json=as_json) as reporter:
        session_id = client.call(operation, request).session_id
        while True:
            view = _show(client, session_id)
            reporter.update(view)
            if view.state == "ended":
                return view
            try:
                watch()
            except OSError:
                _stop(client, session_id, now=True)
                raise
            if interrupts.count > asked:
                asked = interrupts.count
                say(_STOPPING_NOW if asked > 1 else _STOPPING)
                _stop(client, session_id, now=asked > 1)
                delay_s = _FIRST_DELAY_S
            time.sleep(delay_s)
            delay_s = min(delay_s * _DELAY_GROWTH, _LONGEST_DELAY_S)


def conclude(view: types.SessionView, *, as_json: bool, stdout_is_data: bool = False) -> int:
    """Print the result of an ended session and return the exit code."""
    if as_json:
        print_json(summary(view), to_stderr=stdout_is_data)
    else:
        for warning in _warnings(view):
            say(f"warning: {warning}")
    if view.result == "failed":
        return report(_failure(view), as_json=as_json, tasks=[task for task in view.tasks if task.state == "failed"])
    if not as_json:
        print(_sentence(view), file=sys.stderr if stdout_is_data else sys.stdout, flush=True)
    return 0


def summary(view: types.SessionView) -> dict[str, object]:
    """What a program is told at the end; of a health check also what it found."""
    return {
        "session_id": view.session_id,
        "job_id": view.job_id,
        "result": view.result,
        "read_bytes": view.totals.read_bytes,
        "transferred_bytes": view.totals.transferred_bytes,
        "stored_bytes": view.totals.stored_bytes,
        "duration_s": round(view.duration_s, 3),
    } | ({"report": view.report} if view.kind == "health" else {})


class Interrupts:
    """Counts Ctrl-C instead of raising, so that no call to the service is cut in two; the third one raises."""

    def __init__(self) -> None:
        self.count = 0

    def __enter__(self) -> Self:
        self._before = signal.signal(signal.SIGINT, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGINT, self._before)

    def _handle(self, _number: int, _frame: FrameType | None) -> None:
        self.count += 1
        if self.count > 2:
            raise KeyboardInterrupt


def _show(client: Client, session_id: str) -> types.SessionView:
    """Ask for the session; a service that is away for a while is no reason to leave."""
    give_up = time.monotonic() + _SERVICE_PATIENCE_S
    while True:
        try:
            return client.call(operations.SESSION_SHOW, types.ByName(session_id))
        except errors.VbrError as error:
            if error.code not in _AWAY or time.monotonic() > give_up:
                raise
        time.sleep(_LONGEST_DELAY_S)


def _stop(client: Client, session_id: str, *, now: bool) -> None:
    try:
        client.call(operations.JOB_STOP, types.JobStop(session_id, now=now))
    except errors.VbrError as error:  # it may have ended meanwhile; else it can be asked again
        say(f"The session could not be told to stop: {error}")


def _reporter(*, as_json: bool) -> Reporter:
    if as_json or not sys.stderr.isatty():
        return Lines()
    from vbrcore.cli.bars import Bars  # noqa: PLC0415 - rich is for people at a terminal only

    return Bars()


def _failure(view: types.SessionView) -> errors.ErrorInfo:
    """Say why: a job's run that failed is `session_failed`; sessions of one purpose end with their own error."""
    first = view.error or next((task.error for task in view.tasks if task.error is not None), None)
    if view.kind not in {"backup", "copy"} and first is not None:
        return first
    message = f"session {view.session_id} of {view.name} failed"
    if view.error is None:
        return errors.SessionFailed(message).info()
    code, exit_code = errors.SessionFailed.code, errors.SessionFailed.exit_code
    return errors.ErrorInfo(code, f"{message}: {view.error.message}", view.error.hint, exit_code=exit_code)


def _warnings(view: types.SessionView) -> list[str]:
    """Those of the session and of its tasks, each once."""
    found = dict.fromkeys(view.warnings)
    for task in view.tasks:
        found |= dict.fromkeys(f"{task.machine} / {task.disk}: {warning}" for warning in task.warnings)
    return list(found)


def _sentence(view: types.SessionView) -> str:
    totals = view.totals
    return (
        f"{view.kind} of {view.name}: {view.result} in {duration(view.duration_s)}; read {size(totals.read_bytes)}, "
        f"transferred {size(totals.transferred_bytes)}, stored {size(totals.stored_bytes)} "
        f"(session {view.session_id})"
    )
