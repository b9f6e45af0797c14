"""The chains that a backup session writes: one for the job, or one for each machine."""

from vbrcore.manager.chains import Chain, chain_of, chain_of_machine
from vbrcore.manager.context import Context, Warnings, pause
from vbrcore.manager.jobchain import JobChain, Owner, Plan
from vbrcore.manager.keys import RepositoryKeys
from vbrcore.manager.target import TargetRun
from vbrcore.manager.upkeep import directories_below, job_chains
from vbrcore.model.errors import RepositoryNotMounted, VbrError
from vbrcore.model.inventory import Machine, Repository
from vbrcore.model.job import Job

CHAIN_WAITS_S = (5.0, 15.0, 45.0)  # DESIGN 4.6: as for a machine


class JobChains:
    """`begin`, `open_shared`, `of` each machine; `finish_machine` when one is through, then `finish`; `kill` always."""

    def __init__(self, context: Context, job: Job, repository: Repository, warnings: Warnings) -> None:
        self.warnings = warnings
        self._context = context
        self._job = job
        self._owner = Owner(job, repository, RepositoryKeys(context.catalog, repository.repository_id), warnings)
        self._plan = Plan(full=str(context.session.request.get("full", "")))
        self._shared: JobChain | None = None
        self._existing: list[str] = []
        self._chains: dict[str, JobChain] = {}

    async def begin(self) -> None:
        """Take the job's chain, or find out which chains of machines there are."""
        encrypted = self._owner.keys.encrypted
        if self._job.per_machine:
            self._existing = await directories_below(
                self._context, self._job, self._owner.repository, encrypted=encrypted
            )
            return
        self._shared = self._add(chain_of(self._job, encrypted=encrypted), self._plan)
        await self._shared.acquire()

    async def open_shared(self) -> None:
        """Start the one target mover; chains of machines are opened when their machine's turn comes."""
        if self._shared is not None:
            run = await self._opened(self._shared)
            self._context.log.info(f"target mover holds the chain, {len(run.points)} points")

    def of(self, machine: Machine) -> JobChain:
        """Return the chain that a machine's points go to."""
        if self._shared is not None:
            return self._shared
        chain = chain_of_machine(self._job, machine, self._existing, encrypted=self._owner.keys.encrypted)
        return self._add(chain, self._plan)

    async def finish_machine(self, chain: JobChain, present: frozenset[str], *, retain: bool) -> None:
        """A chain of its own ends with its machine, so that there are not more target movers than machines at work."""
        if chain is not self._shared:
            try:
                await chain.finish(present, retain=retain)
            finally:
                await chain.kill()

    async def finish(self, present: frozenset[str], *, retain: bool) -> None:
        """Finish the shared chain; of chains per machine, see to those whose machine is gone."""
        if self._shared is not None:
            await self._shared.finish(present, retain=retain)
            return
        if not self._job.retention.deleted_after_days:
            return
        encrypted = self._owner.keys.encrypted
        for place in await job_chains(self._context, self._job, self._owner.repository, encrypted=encrypted):
            if place.directory in self._chains or self._context.stop.requested.is_set():
                continue
            chain = self._add(place, Plan(may_fill=True))
            try:
                await chain.acquire()
                await chain.ready()
                await chain.finish(present)
            except VbrError as error:
                self.warnings.add(f"retention of {place.directory} was not applied, the next session does it: {error}")
            finally:
                await chain.kill()

    def all(self) -> tuple[JobChain, ...]:
        """Return the chains that this session has written, or was to."""
        return tuple(self._chains.values())

    async def kill(self) -> None:
        for chain in self._chains.values():
            await chain.kill()

    @property
    def stored_bytes(self) -> int:
        return sum(chain.target.stored_bytes for chain in self._chains.values())

    @property
    def report(self) -> dict[str, object]:
        """What upkeep did, by directory; a session in which nothing was to be done has none."""
        return {directory: chain.report for directory, chain in self._chains.items() if chain.report}

    def _add(self, chain: Chain, plan: Plan) -> JobChain:
        made = JobChain(self._context, self._owner, chain, plan)
        self._chains[chain.directory] = made
        return made

    async def _opened(self, chain: JobChain) -> TargetRun:
        """Start a target mover; a chain that a lost writer still holds, and a mover that dies, are tried again."""
        for wait_s in CHAIN_WAITS_S:
            try:
                return await chain.ready()
            except VbrError as error:
                # A repository that is not there needs an administrator; nobody waits a minute to be told.
                if not error.retryable or isinstance(error, RepositoryNotMounted):
                    raise
                self._context.log.warning(f"{error.code}: {error}; tried again in {wait_s:.0f} s")
                await pause(wait_s, self._context.stop)
                self._context.stop.check()
        return await chain.ready()
