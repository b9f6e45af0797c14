"""Progress of a session on a terminal: a bar for each disk that runs, and the bottleneck."""

from __future__ import annotations

from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from vbrcore.api.types import SessionView, TaskView
from vbrcore.cli.output import clean, duration, size
from vbrcore.cli.progress import because, is_small, load_line, task_name

_LINES_FOR_OTHERS = 6  # heading, summary, bottleneck and some air below the bars


class Bars:
    """Shows disks, running ones first, as many as fit the terminal, and what the others wait for."""

    def __init__(self) -> None:
        self._console = Console(stderr=True)
        self._live = Live(console=self._console, auto_refresh=False, transient=True)

    def update(self, view: SessionView) -> None:
        self._live.update(self._picture(view), refresh=True)

    def __enter__(self) -> Self:
        self._live.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def _picture(self, view: SessionView) -> Group:
        tasks = [task for task in view.tasks if not is_small(task)]
        active = [task for task in tasks if task.state == "running"]
        waiting = [task for task in tasks if task.state in {"pending", "assigned"}]
        ended = len(tasks) - len(active) - len(waiting)
        room = max(self._console.size.height - _LINES_FOR_OTHERS, 1)
        table = Table.grid(padding=(0, 2))
        for task in [*active, *waiting][:room]:
            table.add_row(*_row(task))
        hidden = len(active) + len(waiting) - room
        lines: list[RenderableType] = [
            Text(clean(f"{view.name}: {view.state}{because(view)}"), style="bold"),
            table,
            Text(f"{ended} of {len(tasks)} done" + (f", {hidden} more not shown" if hidden > 0 else "")),
        ]
        load = load_line(view.tasks)
        return Group(*lines, *([Text(load)] if load else []))


def _row(task: TaskView) -> tuple[Text | ProgressBar, ...]:
    name = Text(clean(task_name(task)), overflow="ellipsis", no_wrap=True)
    if task.state != "running":
        return name, Text(clean(f"{task.state}{because(task)}"), style="dim", no_wrap=True)
    done = min(task.done_bytes, task.size_bytes)
    return (
        name,
        ProgressBar(total=max(task.size_bytes, 1), completed=done, width=24),
        Text(f"read {size(task.totals.read_bytes)}", no_wrap=True),
        Text(f"sent {size(task.totals.transferred_bytes)}", no_wrap=True),
        Text(f"{size(task.rate_bytes_s)}/s", no_wrap=True),
        Text("" if task.eta_s is None else f"{duration(task.eta_s)} left", no_wrap=True),
    )
