"""Retention: what the job's policy says of its chain, done by the target mover."""

import time

import msgspec

from vbrcore.api.types import RetentionApply
from vbrcore.catalog.clock import read_clock
from vbrcore.chain.retention import Verdict, decide
from vbrcore.manager.chains import Chain, chain_of, copied_chains, target_work
from vbrcore.manager.context import Context, Warnings
from vbrcore.manager.demands import SESSION_SCOPE, chain_demand
from vbrcore.manager.keys import RepositoryKeys
from vbrcore.manager.report import Outcome
from vbrcore.manager.target import Target, TargetRun
from vbrcore.model.job import Job
from vbrcore.model.session import Totals

_WAITING = frozenset({"clock_not_trusted"})


async def apply_retention(
    context: Context, job: Job, run: TargetRun, warnings: Warnings, *, present: frozenset[str] | None, doubt: str
) -> tuple[Verdict, ...]:
    """Have the target forget what the policy lets go; return all verdicts.

    `present`: ids of the machines of an inventory that was read in full; None: not known, so no machine counts as
    deleted. `doubt` of the clock makes rules that look at it wait.
    """
    verdicts = decide(
        run.points,
        job.retention,
        time.time(),
        present_machines=present,
        pinned=context.catalog.points_being_read(),
        clock_trusted=not doubt,
    )
    if doubt and any(reason.code in _WAITING for verdict in verdicts for reason in verdict.reasons):
        warnings.add(f"retention waits until the clock is confirmed: {doubt}")
    going = tuple(verdict for verdict in verdicts if not verdict.keep)
    for verdict in going:
        why = "; ".join(reason.text for reason in verdict.reasons)
        context.log.info(f"restore point {verdict.point_id} goes: {why}", machine=verdict.machine)
    if going:
        await run.forget(tuple(verdict.point_id for verdict in going))
    context.log.info(f"retention: {len(verdicts) - len(going)} points stay, {len(going)} go")
    return verdicts


async def run_retention(context: Context) -> Outcome:
    """Run a session of kind `retention`: the policy on demand."""
    catalog, session = context.catalog, context.session
    job = catalog.job(session.job_id)
    encrypted = catalog.is_encrypted(job.repository_id)
    chains = copied_chains(catalog, job) if job.is_copy else (chain_of(job, encrypted=encrypted),)
    warnings = Warnings(context.log)
    stored_bytes = 0
    for chain in chains:
        context.stop.check()
        await context.leases.acquire(chain_demand(session, catalog.repository(job.repository_id), chain.directory))
        catalog.update_session(session.session_id, state="running")
        stored_bytes += await _apply_to(context, job, chain, warnings)
        context.leases.release(SESSION_SCOPE)
    return Outcome(totals=Totals(stored_bytes=stored_bytes), warnings=warnings.all())


async def _apply_to(context: Context, job: Job, chain: Chain, warnings: Warnings) -> int:
    """Apply the policy to one chain; return the bytes that were appended."""
    catalog = context.catalog
    request = msgspec.convert(context.session.request, RetentionApply)
    repository = catalog.repository(job.repository_id)
    work = target_work(context, repository, chain, may_fill=True)
    target = Target(context.crew, work, context.log, RepositoryKeys(catalog, repository.repository_id))
    try:
        run = await target.ready()
        for warning in run.warnings:
            warnings.add(warning)
        clock = read_clock()
        doubt = "" if request.trust_clock else catalog.clock_doubt(clock, newest_of(run))
        await apply_retention(context, job, run, warnings, present=None, doubt=doubt)
        await target.seal()
        catalog.replace_points(repository.repository_id, job.job_id, work.directory, run.points)
        if not doubt:
            catalog.set_clock_seen(clock)
        return target.stored_bytes
    finally:
        await target.kill()


def newest_of(run: TargetRun) -> float | None:
    """Return the latest time of a point."""
    return max((point.created for point in run.points), default=None)
