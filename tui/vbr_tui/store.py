"""What the dashboard knows: the newest answers of the service, asked for in turn by one thread."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

import msgspec

from vbrcore.api import operations, types

if TYPE_CHECKING:
    from vbrcore.api.client import Client

# Lists that change seldom are asked for at most this often.
SELDOM_S = 3.0
RECENT_MAX = 8


class Picture(msgspec.Struct, frozen=True):
    """One look at the service. `taken` is on the monotonic clock, in seconds."""

    taken: float
    service: types.ServiceView
    sessions: tuple[types.SessionView, ...] = ()
    processes: tuple[types.ProcessView, ...] = ()
    recent: tuple[types.SessionView, ...] = ()  # ended ones, newest first
    jobs: tuple[types.JobView, ...] = ()
    hypervisors: tuple[types.HypervisorView, ...] = ()
    repositories: tuple[types.RepositoryView, ...] = ()


class Source(Protocol):
    """Where pictures come from."""

    def look(self, *, start: bool) -> Picture:
        """Return the newest picture; with `start` a service is started where none runs. Blocks.

        Raises a `VbrError` where the service cannot be reached.
        """

    def close(self) -> None:
        """Give the connection back."""


class Store:
    """Pictures of one home's service. Used by one thread at a time; connects anew after each failure.

    `connect(start)` returns a client, with `start` one that starts a service where none runs.
    """

    def __init__(self, connect: Callable[[bool], Client]) -> None:
        self._connect = connect
        self._client: Client | None = None
        self._seldom: Picture | None = None

    def look(self, *, start: bool) -> Picture:
        if start:
            # Once: a client that may start a service would do so whenever somebody stops it.
            with self._connect(True) as starter:
                starter.call(operations.SERVICE_SHOW, types.Nothing())
        client = self._client
        if client is None:
            client = self._client = self._connect(False)
        try:
            sessions = client.call(operations.SESSIONS_LIVE, types.Nothing())
            processes = client.call(operations.PROCESS_LIST, types.Nothing())
            seldom = self._look_at_lists(client, sessions)
        except BaseException:
            self.close()
            raise
        return msgspec.structs.replace(seldom, taken=time.monotonic(), sessions=sessions, processes=processes)

    def close(self) -> None:
        client, self._client, self._seldom = self._client, None, None
        if client is not None:
            client.close()

    def _look_at_lists(self, client: Client, sessions: tuple[types.SessionView, ...]) -> Picture:
        """Return what changes seldom, asked again when it is old or when a session began or ended."""
        nothing = types.Nothing()
        last = self._seldom
        same = last and {s.session_id for s in last.sessions} == {s.session_id for s in sessions}
        if last and same and time.monotonic() - last.taken < SELDOM_S:
            return last
        recent = client.call(operations.SESSION_LIST, types.SessionQuery(limit=RECENT_MAX))
        self._seldom = Picture(
            taken=time.monotonic(),
            service=client.call(operations.SERVICE_SHOW, nothing),
            sessions=sessions,
            recent=tuple(session for session in recent if session.state == "ended"),
            jobs=client.call(operations.JOB_LIST, nothing),
            hypervisors=client.call(operations.HYPERVISOR_LIST, nothing),
            repositories=client.call(operations.REPOSITORY_LIST, nothing),
        )
        return self._seldom
