"""Progress of a session as plain lines: one for each change of state."""

from __future__ import annotations

from typing import Protocol, Self

from vbrcore.cli.api import types
from vbrcore.cli.output import say, size

_CONFIGURATION = "configuration"  # the task that copies it has this name in place of a disk's
_STAGES = ("source", "compress", "network", "target")


class Reporter(Protocol):
    """Shows a session while it runs."""

    def update(self, view: types.SessionView) -> None: ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *error: object) -> None: ...


class Lines:
    """Says what changed, on the error output; fit for logs."""

    def __init__(self) -> None:
        self._said: dict[str, tuple[str, str]] = {}

    def update(self, view: types.SessionView) -> None:
        if view.state != "ended":
            self._say_session(view)
        for task in view.tasks:
            if is_small(task) or (task.state in {"pending", "assigned"} and not task.reason):
                continue  # what waits without a reason is about to start
            text = f"{task_name(task)}: {task.state}"
            if task.state == "done":
                text += f", read {size(task.totals.read_bytes)}, transferred {size(task.totals.transferred_bytes)}"
            else:
                text += because(task)
            if task.attempt > 1:
                text += f" (attempt {task.attempt})"
            self._say(task.task_id, (f"{task.state} {task.attempt}", task.reason), text)
        if view.state == "ended":
            self._say_session(view)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing is held."""

    def _say_session(self, view: types.SessionView) -> None:
        self._say(view.session_id, (view.state, view.reason), f"{view.name}: {view.state}{because(view)}")

    def _say(self, key: str, state: tuple[str, str], text: str) -> None:
        if self._said.get(key) != state:
            self._said[key] = state
            say(text)


def is_small(task: types.TaskView) -> bool:
    """Tell whether this is a machine's configuration that is well: copied in no time, and of interest to nobody."""
    return task.disk == _CONFIGURATION and task.state != "failed"


def task_name(task: types.TaskView) -> str:
    return f"{task.machine} / {task.disk}"


def load_line(tasks: tuple[types.TaskView, ...]) -> str:
    """Say how busy each stage is over the running tasks, and which one holds up the others; "" where none runs."""
    running = [task.busy for task in tasks if task.state == "running" and task.busy]
    if not running:
        return ""
    busy = {stage: sum(task.get(stage, 0.0) for task in running) / len(running) for stage in _STAGES}
    slowest = max(busy, key=lambda stage: busy[stage])
    parts = " > ".join(f"{stage} {busy[stage]:.0%}" for stage in _STAGES)
    return f"Busy: {parts}    Bottleneck: {slowest}"


def reason_of(view: types.TaskView | types.SessionView) -> str:
    """Say why a task or session is in its state; "" where there is nothing to say."""
    return view.error.message if view.error else view.detail or view.reason


def because(view: types.TaskView | types.SessionView) -> str:
    """Give the reason in parentheses, to be put behind a state; "" where there is none."""
    reason = reason_of(view)
    return f" ({reason})" if reason else ""
