"""Tells plugins what happened, in order, beside the session: a slow or broken listener holds nothing up."""

import logging
import queue
import threading
from collections.abc import Callable

from vbrcore.model.errors import VbrError
from vbrcore.model.point import Point
from vbrcore.model.session import Session

_log = logging.getLogger(__name__)
_PATIENCE_S = 10.0


class SessionEvents:
    """Loads the listeners of all usable plugins in a thread of its own, which also calls them."""

    def __init__(self) -> None:
        self._calls: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="events", daemon=True)
        self._thread.start()

    def session_started(self, session: Session) -> None:
        self._calls.put(lambda: self._listeners.session_started(session))

    def point_committed(self, point: Point) -> None:
        self._calls.put(lambda: self._listeners.point_committed(point))

    def session_ended(self, session: Session) -> None:
        self._calls.put(lambda: self._listeners.session_ended(session))

    def close(self) -> None:
        """Wait until all listeners were told, for ten seconds at most."""
        self._calls.put(None)
        self._thread.join(_PATIENCE_S)
        if self._thread.is_alive():
            _log.warning("a plugin's listener did not end within %.0f s of the session", _PATIENCE_S)

    def _run(self) -> None:
        from vbrcore.plugins.hooks import Events  # noqa: PLC0415 - pluggy loads beside the session, not before it
        from vbrcore.plugins.loader import list_plugins, load_module  # noqa: PLC0415

        self._listeners = Events()
        for plugin in list_plugins():
            if plugin.state != "ok":
                continue
            try:
                self._listeners.register(load_module(plugin.id), plugin.id)
            except VbrError as error:
                _log.warning("plugin %s hears no events: %s", plugin.id, error)
        while (call := self._calls.get()) is not None:
            call()
