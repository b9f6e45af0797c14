"""Requests to stop the session, read from the catalog (they survive the service that took them)."""

import asyncio
import signal

from vbrcore.catalog.catalog import Catalog
from vbrcore.model.errors import CatalogUnavailable, SessionStopped, VbrError

_POLL_S = 0.25


class StopWatch:
    """`requested` is set by any request; `now` is set when running tasks are to end as well."""

    def __init__(self, catalog: Catalog, session_id: str) -> None:
        self.requested = asyncio.Event()
        self.now = asyncio.Event()
        self._catalog = catalog
        self._session_id = session_id
        self._reason: VbrError = SessionStopped("the session was asked to stop")
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Watch the catalog; SIGTERM counts as a graceful request, a second one as `now`."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._on_signal)
        self._task = asyncio.create_task(self._watch(), name="stop-watch")

    def check(self) -> None:
        """Raise what ends the session, mostly `SessionStopped`, if nothing new may begin."""
        if self.requested.is_set():
            raise self._reason

    @property
    def reason(self) -> VbrError:
        """What machines end with that are ended before their time."""
        return self._reason

    def end(self, reason: VbrError, *, now: bool) -> None:
        """End the session for a reason of its own; where it was asked to stop before, that remains the reason."""
        if not self.requested.is_set():
            self._reason = reason
        self.requested.set()
        if now:
            self.now.set()

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def _on_signal(self) -> None:
        if self.requested.is_set():
            self.now.set()
        self.requested.set()

    async def _watch(self) -> None:
        version = -1
        while True:
            try:
                if (seen := self._catalog.data_version()) != version:
                    self._look()
                    version = seen
            except CatalogUnavailable:
                pass  # looked at again with the next poll; who asks to stop waits no longer than the catalog is away
            await asyncio.sleep(_POLL_S)

    def _look(self) -> None:
        mode = self._catalog.stop_requested(self._session_id)
        if mode:
            self.requested.set()
        if mode == "now":
            self.now.set()
