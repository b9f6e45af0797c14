"""The backup service: what it knows, and the loop that supervises managers, balances, and keeps the schedule."""

import asyncio
import logging
import time

from vbrcore.api.home import Home
from vbrcore.catalog.catalog import Catalog
from vbrcore.model.errors import JobAlreadyRunning, ServiceStopping, VbrError
from vbrcore.model.ids import new_id
from vbrcore.model.job import Job
from vbrcore.model.session import JOB_RUNS, Session, SessionKind
from vbrcore.service.balancing import balance
from vbrcore.service.checks import Checks
from vbrcore.service.cleanup import Cleanup
from vbrcore.service.configuration import Configuration
from vbrcore.service.elsewhere import Elsewhere
from vbrcore.service.live import LiveStore
from vbrcore.service.managers import Managers
from vbrcore.service.scheduler import Scheduler
from vbrcore.service.serverwatch import ServerWatch
from vbrcore.service.upkeep import jobs_with_due_upkeep

_log = logging.getLogger(__name__)

IDLE_S = 30.0
_LOOK_S = 0.25  # how often the catalog is looked at for changes that nobody told of
_CHECK_S = 0.5  # how often processes are looked at
_SCHEDULE_S = 1.0
_UPKEEP_S = 10.0
_CLEAN_PATIENCE_S = 60.0
_CLOCK_JUMP_S = 2.0


class Service:
    """One per home. Its methods are called on the event loop, except where a docstring says otherwise."""

    def __init__(
        self, home: Home, catalog: Catalog, configuration: Configuration, *, on_demand: bool, idle_s: float
    ) -> None:
        self.home = home
        self.catalog = catalog
        self.configuration = configuration
        self.on_demand = on_demand
        self.started = time.time()
        self.live = LiveStore()
        self.managers = Managers(home, catalog)
        self.elsewhere = Elsewhere(home, catalog)
        self.stopping = False
        self.ended = asyncio.Event()
        self._cleanup = Cleanup(catalog, self.managers)
        self._scheduler = Scheduler(catalog, self._run_scheduled, self.started)
        self._checks = Checks(catalog)
        self._recovered = asyncio.Event()
        self._clean = asyncio.Event()
        self._poked = asyncio.Event()
        self._calls = 0
        self._idle_s = idle_s
        self._last_call = time.monotonic()
        self._clock_offset = time.time() - time.monotonic()
        self.servers = ServerWatch(catalog, self.poke)

    # --- for the handlers -----------------------------------------------------------------------

    def poke(self) -> None:
        """Have the balancer look at the catalog now."""
        self._poked.set()

    def start_session(
        self, kind: SessionKind, *, job_id: str, name: str, manual: bool = True, request: dict[str, object]
    ) -> Session:
        """Start a session and its manager. May be called from any thread. Raises `ServiceStopping` and others."""
        if self.stopping:
            raise ServiceStopping("the service is stopping and starts no sessions")
        session = Session(
            session_id=new_id(),
            job_id=job_id,
            name=name,
            kind=kind,
            state="starting",
            result="none",
            manual=manual,
            created=time.time(),
            request=request,
        )
        if kind in JOB_RUNS and self.catalog.live_session_of(job_id) is not None:
            self.managers.check()  # it may be one whose manager died just now
        self.managers.start(session)
        return session

    def start_check(self, job: Job, *, deep: bool, point: str = "", manual: bool = True) -> Session:
        """Start a health check of a job's chains, or of one point. As `start_session`."""
        request: dict[str, object] = {"name": job.name, "deep": deep, "point": point}
        return self.start_session("health", job_id=job.job_id, name=job.name, manual=manual, request=request)

    async def recovered(self) -> None:
        """Wait until what an earlier service left is undone: before that no command does anything else."""
        await _patiently(self._recovered)

    async def clean(self) -> None:
        """Wait until what dead sessions left is undone, as far as it can be: before that no session begins."""
        await _patiently(self._clean)

    def call_begins(self) -> None:
        """Count a question of a client. Raises `ServiceStopping` when the service is about to end by itself."""
        if self.ended.is_set():
            raise ServiceStopping("the service is ending")
        self._calls += 1

    def call_ends(self) -> None:
        self._calls -= 1
        self._last_call = time.monotonic()

    async def stop(self, *, now: bool) -> None:
        """Stop all sessions as `job stop` does, wait for their ends, then end the service."""
        self.stopping = True
        asked = frozenset[str]()
        while live := await asyncio.to_thread(self.catalog.live_sessions):
            wanted = frozenset(session.session_id for session in live if session.kind != "cleanup")
            if not wanted:
                break  # a clean-up goes on by itself
            # One may have been starting when we began to stop.
            for session_id in wanted - asked:
                await asyncio.to_thread(self.catalog.request_stop, session_id, now=now)
            asked |= wanted
            await asyncio.sleep(0.05)
        _log.info("all sessions have ended; the service stops")

    # --- the loop -------------------------------------------------------------------------------

    async def run(self) -> None:
        """Recover, then supervise until the service has ended. An error that was not expected is logged, no more."""
        await asyncio.to_thread(self._recover)
        watching = (
            asyncio.create_task(self.servers.run(), name="servers"),
            asyncio.create_task(self.elsewhere.watch(), name="repositories"),
        )
        try:
            await self._supervise()
        finally:
            for task in watching:
                task.cancel()
            await asyncio.gather(*watching, return_exceptions=True)
            await self.elsewhere.close()

    async def _supervise(self) -> None:
        version = -1
        checked = scheduled = kept = 0.0
        while not self.ended.is_set():
            poked = self._poked.is_set()
            self._poked.clear()
            try:
                now = time.monotonic()
                changed = False
                if now - checked >= _CHECK_S:
                    checked = now
                    changed = await asyncio.to_thread(self._check)
                if now - scheduled >= _SCHEDULE_S:
                    scheduled = now
                    changed = await asyncio.to_thread(self._run_due_jobs) or changed
                    changed = await asyncio.to_thread(self._run_due_checks) or changed
                if now - kept >= _UPKEEP_S:
                    kept = now
                    changed = await asyncio.to_thread(self._start_upkeep) or changed
                seen = self.catalog.data_version()
                if poked or changed or seen != version:
                    version = seen
                    await asyncio.to_thread(balance, self.catalog, self.elsewhere.closed)
                if self._cleanup.pending:
                    self._clean.clear()
                else:
                    self._clean.set()
                    self._recovered.set()
                if self._is_idle():
                    _log.info("nobody needs the service any more; it ends")
                    self.ended.set()
            except VbrError as error:
                _log.error("%s: %s", error.code, error)
            except Exception:  # noqa: BLE001 - whoever supervises must not end by one bad row
                _log.exception("the service's loop goes on after an error")
            await self._next_look()

    async def _next_look(self) -> None:
        try:
            async with asyncio.timeout(_LOOK_S):
                await self._poked.wait()
        except TimeoutError:
            return

    def _recover(self) -> None:
        """Give every holder that may live one more lease time; what is dead for certain is freed by the first check."""
        self.catalog.grant_grace()

    def _check(self) -> bool:
        self._follow_clock()
        ended = self.managers.check()
        self._cleanup.check()
        self.live.keep_only(frozenset(session.session_id for session in self.catalog.live_sessions()))
        return ended

    def _follow_clock(self) -> None:
        """A clock that was set, or a machine that slept, costs nobody its lease."""
        offset = time.time() - time.monotonic()
        jump = offset - self._clock_offset
        if abs(jump) > _CLOCK_JUMP_S:
            _log.warning("the clock jumped by %.1f s; leases move with it", jump)
            self.catalog.extend_leases(jump)
            self._clock_offset = offset

    def _is_idle(self) -> bool:
        if not self.on_demand or self._calls or time.monotonic() - self._last_call < self._idle_s:
            return False
        return self._recovered.is_set() and self.managers.is_idle()

    def _run_due_jobs(self) -> bool:
        """Start jobs that are due; return whether any was."""
        if self.stopping or self._cleanup.pending:
            return False
        return self._scheduler.run_due(time.time())

    def _start_upkeep(self) -> bool:
        """Start what sessions left for their jobs' windows; return whether there was any."""
        if self.stopping or self._cleanup.pending:
            return False
        due = jobs_with_due_upkeep(self.catalog, time.time())
        for job in due:
            self.start_session("upkeep", job_id=job.job_id, name=job.name, manual=False, request={"work": "due"})
        return bool(due)

    def _run_due_checks(self) -> bool:
        """Start health checks that are due; return whether any was."""
        if self.stopping or self._cleanup.pending:
            return False
        return self._checks.start_due(lambda job: self.start_check(job, deep=job.health.deep, manual=False))

    def _run_scheduled(self, job: Job, request: dict[str, object]) -> None:
        try:
            self.start_session(job.run_kind, job_id=job.job_id, name=job.name, manual=False, request=request)
        except JobAlreadyRunning as error:
            _log.warning("job %s is due but not started: %s", job.name, error)
        except VbrError as error:
            _log.error("job %s is due but could not be started: %s: %s", job.name, error.code, error)


async def _patiently(event: asyncio.Event) -> None:
    """Wait for an event, but not forever: a hypervisor that does not answer must not hold up everything else."""
    try:
        async with asyncio.timeout(_CLEAN_PATIENCE_S):
            await event.wait()
    except TimeoutError:
        _log.warning("going on although a clean-up has not ended yet")
