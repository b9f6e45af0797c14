"""Events that plugins may listen to. An event tells what happened; a listener cannot change or stop it."""

import logging
from typing import Any

import pluggy

from vbrcore.model.point import Point
from vbrcore.model.session import Session

_log = logging.getLogger(__name__)

hookspec = pluggy.HookspecMarker("vbrcore")
hookimpl = pluggy.HookimplMarker("vbrcore")


class EventSpecs:
    """The hook specifications: a plugin's module may have functions of these names marked with `hookimpl`."""

    @hookspec
    def vbr_session_started(self, session: Session) -> None:
        """Tell that a session has begun."""

    @hookspec
    def vbr_session_ended(self, session: Session) -> None:
        """Tell that a session is over; `session.result` says how."""

    @hookspec
    def vbr_point_committed(self, point: Point) -> None:
        """Tell that a restore point is durable."""


class Events:
    """The listeners of one process. A listener that fails is logged; the others and the caller go on."""

    def __init__(self) -> None:
        self._manager = pluggy.PluginManager("vbrcore")
        self._manager.add_hookspecs(EventSpecs)

    def register(self, listener: object, name: str) -> None:
        """Add a module or object with functions marked `hookimpl`. One that does not fit is logged and left out."""
        try:
            self._manager.register(listener, name)
            self._manager.check_pending()
        except (pluggy.PluginValidationError, ValueError) as error:
            if self._manager.is_registered(listener):
                self._manager.unregister(listener)
            _log.warning("events of plugin %s are ignored: %s", name, error)

    def session_started(self, session: Session) -> None:
        self._tell("vbr_session_started", session=session)

    def session_ended(self, session: Session) -> None:
        self._tell("vbr_session_ended", session=session)

    def point_committed(self, point: Point) -> None:
        self._tell("vbr_point_committed", point=point)

    def _tell(self, event: str, **values: Any) -> None:
        # One by one, because pluggy's own call ends at the first listener that raises.
        for listener in getattr(self._manager.hook, event).get_hookimpls():
            try:
                listener.function(*(values[name] for name in listener.argnames))
            except Exception:  # noqa: BLE001 - foreign code may fail in any way; it is logged
                _log.exception("plugin %s failed in %s", listener.plugin_name, event)
