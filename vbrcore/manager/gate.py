"""The window of a scheduled session: when it ends, no new machine starts; a hard one ends those that run."""

import asyncio
import time
from collections.abc import Coroutine
from typing import Any, TypeVar

from vbrcore.manager.log import SessionLog
from vbrcore.manager.stop import StopWatch
from vbrcore.model.errors import OutsideWindow
from vbrcore.model.job import Schedule
from vbrcore.model.session import Session
from vbrcore.model.window import closing
from vbrcore.model.zones import zone_named

T = TypeVar("T")

_LOOK_S = 1.0  # the clock may be set, and the machine may sleep


class Gate:
    """`closed` is set when the window has ended. A session that somebody started has none: it waits for no window.

    `ends_session`: its end is a graceful stop of the whole session, whose parts ask the `stop` and not the gate.
    """

    def __init__(
        self,
        schedule: Schedule,
        session: Session,
        stop: StopWatch,
        log: SessionLog,
        *,
        ends_session: bool = False,
    ) -> None:
        self.closed = asyncio.Event()
        self._window = schedule.window
        self._hard = schedule.hard_window
        self._ends_session = ends_session
        self._stop = stop
        self._log = log
        window = self._window
        self._closes = None if session.manual else closing(window, time.time(), zone_named(window.zone))
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        if self._closes is not None:
            self._look(self._closes)
            self._task = asyncio.create_task(self._watch(self._closes), name="window")

    def check(self) -> None:
        """Raise `OutsideWindow` if no machine may start any more."""
        if self.closed.is_set():
            raise self._error()

    async def while_open(self, waiting: Coroutine[Any, Any, T]) -> T:
        """Wait for something that is needed to start; give it up and raise `OutsideWindow` when the window ends."""
        task = asyncio.create_task(waiting)
        closed = asyncio.create_task(self.closed.wait())
        try:
            await asyncio.wait((task, closed), return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                return task.result()
        finally:
            closed.cancel()
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)  # it gives back what it was given meanwhile
        raise self._error()

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _watch(self, closes: float) -> None:
        while not self.closed.is_set():
            await asyncio.sleep(min(_LOOK_S, max(0.01, closes - time.time())))
            self._look(closes)

    def _look(self, closes: float) -> None:
        if time.time() < closes:
            return
        self._log.warning(str(self._error()))
        self.closed.set()
        if self._hard or self._ends_session:
            self._stop.end(self._error(), now=self._hard)

    def _error(self) -> OutsideWindow:
        window = self._window
        return OutsideWindow(f"the window {window.begin} to {window.end} ({window.zone}) has ended")
