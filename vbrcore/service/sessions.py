"""Sessions as they are and were: their state, tasks, and logs."""

import time
from collections.abc import Mapping

from vbrcore.api import operations, types
from vbrcore.catalog.catalog import Waiting
from vbrcore.model.errors import InvalidValue
from vbrcore.model.session import Session, SessionState, Task
from vbrcore.service.jobs import find_job
from vbrcore.service.routes import Call, Routes
from vbrcore.service.values import moment

_MAX_LIMIT = 1000
_MAX_LOG_BYTES = 1024 * 1024
_NO_WAIT = Waiting("", "", "", 0)


def add_routes(routes: Routes) -> None:
    routes.add(operations.SESSION_LIST, _list)
    routes.add(operations.SESSION_SHOW, _show)
    routes.add(operations.SESSION_LOG, _log)
    routes.add(operations.SESSIONS_LIVE, _live)


def _list(call: Call, request: types.SessionQuery) -> tuple[types.SessionView, ...]:
    if not 1 <= request.limit <= _MAX_LIMIT:
        raise InvalidValue(f"limit must be 1 to {_MAX_LIMIT}, not {request.limit}")
    job_id = find_job(call, request.job).job_id if request.job else ""
    found = call.service.catalog.sessions(job_id=job_id, before=request.before, limit=request.limit)
    return tuple(_view(call, session, with_tasks=False) for session in found)


def _show(call: Call, request: types.ByName) -> types.SessionView:
    return _view(call, call.service.catalog.session(request.name), with_tasks=True)


def _live(call: Call, _request: types.Nothing) -> tuple[types.SessionView, ...]:
    return tuple(_view(call, session, with_tasks=True) for session in call.service.catalog.live_sessions())


def _log(call: Call, request: types.LogQuery) -> types.LogChunk:
    """Return whole lines only; what is still being written comes with the next call."""
    session = call.service.catalog.session(request.session)
    try:
        with call.service.home.session_log(session).open("rb") as file:
            file.seek(max(0, request.offset))
            data = file.read(_MAX_LOG_BYTES)
    except FileNotFoundError:
        data = b""
    whole = data[: data.rfind(b"\n") + 1]
    # The state was read before the file: an ended session writes no more, so an empty rest is all.
    ended = session.state == "ended" and not whole
    return types.LogChunk(
        lines=tuple(line.decode(errors="replace") for line in whole.splitlines()),
        next_offset=max(0, request.offset) + len(whole),
        ended=ended,
    )


def _view(call: Call, session: Session, *, with_tasks: bool) -> types.SessionView:
    catalog = call.service.catalog
    ended = session.state == "ended"
    waiting = {} if ended else {one.demand_id: one for one in catalog.waiting(session.session_id)}
    tasks = catalog.tasks(session.session_id) if with_tasks else ()
    known = {task.task_id for task in tasks}
    own = next((one for demand_id, one in waiting.items() if demand_id not in known), None) if with_tasks else None
    totals = session.totals
    views = tuple(_task_view(task, waiting, call.service.live.tasks(session.session_id)) for task in tasks)
    if not ended:
        for view in views:
            totals = totals.plus(view.totals)
    begun = session.started or session.created
    return types.SessionView(
        session_id=session.session_id,
        job_id=session.job_id,
        name=session.name,
        kind=session.kind,
        state=_state(session, waits=own is not None),
        reason=own.reason if own else "",
        result=session.result,
        created=moment(session.created) or "",
        ended=moment(session.ended),
        duration_s=max(0.0, (session.ended or time.time()) - begun),
        totals=totals,
        warnings=session.warnings,
        error=session.error,
        tasks=views,
        detail=own.detail if own else "",
        place=own.place if own else 0,
        report=session.report if with_tasks else {},
    )


def _state(session: Session, *, waits: bool) -> SessionState:
    if session.state == "ended":
        return "ended"
    if session.stop_requested:
        return "stopping"
    return "waiting" if waits else session.state


def _task_view(task: Task, waiting: Mapping[str, Waiting], live: Mapping[str, types.LiveTask]) -> types.TaskView:
    """A task's row, what it waits for, and while it runs what its mover last said."""
    wait = waiting.get(task.task_id, _NO_WAIT)
    running = live.get(task.task_id) if task.state == "running" else None
    done_bytes = running.done_bytes if running else task.size_bytes if task.state == "done" else 0
    rate = running.rate_bytes_s if running else 0.0
    left_bytes = max(0, task.size_bytes - done_bytes)
    return types.TaskView(
        task_id=task.task_id,
        machine=task.machine,
        disk=task.disk,
        state=task.state,
        reason=wait.reason or task.reason,
        server=task.server,
        size_bytes=task.size_bytes,
        done_bytes=done_bytes,
        attempt=task.attempt,
        totals=running.totals if running else task.totals,
        rate_bytes_s=rate,
        eta_s=left_bytes / rate if running and rate > 0 else None,
        busy=dict(running.busy) if running else {},
        error=task.error,
        warnings=task.warnings,
        detail=wait.detail,
        place=wait.place,
        mode=task.mode,
        why=task.why,
    )
