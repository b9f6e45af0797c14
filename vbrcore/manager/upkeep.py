"""Sessions that keep a job's chains in order without a source: retention on demand, giving back, compacting."""

import asyncio
from typing import Literal

import msgspec

from vbrcore.api.types import RetentionApply
from vbrcore.chain.listing import list_chains
from vbrcore.manager.chains import Chain, chain_of
from vbrcore.manager.context import Context, Warnings
from vbrcore.manager.jobchain import JobChain, Owner, Plan
from vbrcore.manager.keys import RepositoryKeys
from vbrcore.manager.report import Outcome
from vbrcore.model.inventory import Repository
from vbrcore.model.job import Job
from vbrcore.model.session import Totals


class UpkeepRequest(msgspec.Struct, frozen=True):
    """`work`: what is to be done with each chain; "due": what a session left for its window."""

    work: Literal["due", "compact", "rewrite"]


async def run_retention(context: Context) -> Outcome:
    """Run a session of kind `retention`: the policy on demand, and all space that comes free by it."""
    request = msgspec.convert(context.session.request, RetentionApply)
    plan = Plan(may_fill=True, any_time=True, force=True, trust_clock=request.trust_clock)
    return await _with_chains(context, plan, "due")


async def run_upkeep(context: Context) -> Outcome:
    """Run a session of kind `upkeep`."""
    request = msgspec.convert(context.session.request, UpkeepRequest)
    return await _with_chains(context, Plan(may_fill=True, any_time=True), request.work)


async def _with_chains(context: Context, plan: Plan, work: Literal["due", "compact", "rewrite"]) -> Outcome:
    """Do it to each chain of the job, one after the other."""
    catalog = context.catalog
    job = catalog.job(context.session.job_id)
    keys = RepositoryKeys(catalog, job.repository_id)
    directory = job.chain_directory(encrypted=keys.encrypted)
    repository = await context.gateways.repository(job.repository_id, directory)
    owner = Owner(job, repository, keys, Warnings(context.log))
    stored_bytes = 0
    report: dict[str, object] = {}
    for place in await job_chains(context, job, repository, encrypted=keys.encrypted):
        context.stop.check()
        chain = JobChain(context, owner, place, plan)
        try:
            await chain.acquire()
            catalog.update_session(context.session.session_id, state="running")
            await chain.ready()
            if work == "due":
                await chain.finish(None)
            else:
                await chain.compact(rewrite=work == "rewrite")
                await chain.finish(None, retain=False)
        finally:
            await chain.kill()
        stored_bytes += chain.target.stored_bytes
        report[chain.directory] = chain.report
    return Outcome(totals=Totals(stored_bytes=stored_bytes), warnings=owner.warnings.all(), report={"upkeep": report})


async def job_chains(context: Context, job: Job, repository: Repository, *, encrypted: bool) -> list[Chain]:
    """Return the chains of a job that are there."""
    whole = chain_of(job, encrypted=encrypted)
    if not job.per_machine and not job.is_copy:
        return [whole]
    newest = {
        stored.directory: stored.point
        for stored in context.catalog.points(job.job_id)
        if stored.repository_id == repository.repository_id
    }
    chains = []
    for directory in await directories_below(context, job, repository, encrypted=encrypted):
        point = newest.get(directory)
        owner = (point.machine_id, point.machine) if point is not None and job.per_machine else ("", "")
        # A copy has blocks as its source has.
        size_bytes = point.block_size_bytes if point is not None and job.is_copy else job.block_size_bytes
        chains.append(Chain(directory, job.job_id, job.name, size_bytes, *owner))
    return chains


async def directories_below(context: Context, job: Job, repository: Repository, *, encrypted: bool) -> list[str]:
    """Return the directories of the chains per machine, or of copied chains, that a job has, said by the files."""
    storage = await asyncio.to_thread(context.storages.open, repository)
    below = f"{job.chain_directory(encrypted=encrypted)}/"
    return [directory for directory in await asyncio.to_thread(list_chains, storage) if directory.startswith(below)]
