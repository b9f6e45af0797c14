"""The session's leases: asked for, waited for, renewed, given back. They are rows of the catalog and nowhere else."""

import asyncio
import threading
import time
from collections.abc import Callable

from vbrcore.balancer.demand import RANK_OPEN_MACHINE, Demand, Grant
from vbrcore.catalog.catalog import Catalog
from vbrcore.manager.log import SessionLog
from vbrcore.manager.stop import StopWatch
from vbrcore.model.errors import (
    CatalogUnavailable,
    FormatNewer,
    LeaseLost,
    RepositoryFull,
    RepositoryNotMounted,
    ServerUnreachable,
    VbrError,
)
from vbrcore.model.times import LEASE_RENEWAL_S

_POLL_S = 0.02
_POLL_MAX_S = 0.25
_AWAY_S = 60.0  # so long a server that is away is waited for; then whoever needs it is tried again later, or fails
_NEEDS_ADMINISTRATOR: dict[str, type[VbrError]] = {
    "repository_below_reserve": RepositoryFull,
    RepositoryNotMounted.code: RepositoryNotMounted,
    FormatNewer.code: FormatNewer,
}


class Leases:
    """`lost` is set when the catalog no longer knows our leases: then the session must end."""

    def __init__(
        self, catalog: Catalog, session_id: str, log: SessionLog, stop: StopWatch, poke: Callable[[], None]
    ) -> None:
        self.lost = asyncio.Event()
        self._catalog = catalog
        self._session_id = session_id
        self._log = log
        self._stop = stop
        self._poke = poke
        self._loop = asyncio.get_running_loop()
        self._closing = threading.Event()
        # A thread, so that no long call on the event loop can starve the renewal.
        self._renewer = threading.Thread(target=self._renew, name="lease-renewal", daemon=True)

    def start(self) -> None:
        self._renewer.start()

    async def acquire(self, demand: Demand) -> Grant:
        """Wait until everything in the demand is ours. Raises `SessionStopped`, `LeaseLost`."""
        self._catalog.request_lease(demand)
        self._poke_soon()
        wait_s = _POLL_S
        away_since: float | None = None
        try:
            version, away = -1, ""
            while True:
                if (seen := self._catalog.data_version()) != version:
                    version = seen
                    grant = self._catalog.granted(demand.demand_id)
                    if grant is not None:
                        return grant
                    away = self._refuse_hopeless(demand)
                    away_since = None if not away else away_since or time.monotonic()
                if away_since is not None and time.monotonic() - away_since > self._away_s(demand):
                    raise ServerUnreachable(away)
                if self.lost.is_set():
                    raise LeaseLost(f"session {self._session_id} lost its leases")
                if demand.class_rank != RANK_OPEN_MACHINE:  # a machine that was started is finished
                    self._stop.check()
                await asyncio.sleep(wait_s)
                wait_s = min(wait_s * 1.5, _POLL_MAX_S)
        except BaseException:
            self._catalog.cancel_request(demand)
            raise

    def _refuse_hopeless(self, demand: Demand) -> str:
        """Fail where waiting helps nobody: a repository that takes nothing needs an administrator.

        Return which server it waits for to answer again; "": none.
        """
        for waiting in self._catalog.waiting(self._session_id):
            if waiting.demand_id == demand.demand_id:
                if waiting.reason in _NEEDS_ADMINISTRATOR:
                    raise _NEEDS_ADMINISTRATOR[waiting.reason](waiting.detail)
                return waiting.detail if waiting.reason == "server_away" else ""
        return ""

    @staticmethod
    def _away_s(demand: Demand) -> float:
        """A machine whose snapshot is open waits for no server: its snapshot costs the guest."""
        return 0.0 if demand.class_rank == RANK_OPEN_MACHINE else _AWAY_S

    def release(self, scope: str) -> None:
        """Give back everything held under a scope; what is not held is no error."""
        self._catalog.release(self._session_id, scope)
        self._poke_soon()

    def close(self) -> None:
        """End the renewal and give back all that the session holds."""
        self._closing.set()
        self._renewer.join()
        self._catalog.release_session(self._session_id)
        self._poke()

    def _poke_soon(self) -> None:
        self._loop.run_in_executor(None, self._poke)

    def _renew(self) -> None:
        while not self._closing.wait(LEASE_RENEWAL_S):
            try:
                renewed = self._catalog.renew(self._session_id)
            except CatalogUnavailable as error:  # a lease outlasts several missed renewals
                self._log.warning(f"leases not renewed, tried again in {LEASE_RENEWAL_S:.0f} s: {error}")
                continue
            except VbrError as error:
                self._log.error(f"leases cannot be renewed: {error}")
                renewed = False
            if not renewed:
                self._log.error("the leases of this session ended before they were renewed")
                self._loop.call_soon_threadsafe(self.lost.set)
                return
