"""A session that changes what the chains of a repository are locked with: only their contents lists are written."""

import asyncio

import msgspec

from vbrcore.chain.files import read_files
from vbrcore.chain.listing import list_chains
from vbrcore.manager.chains import Chain, target_work
from vbrcore.manager.context import Context, Warnings
from vbrcore.manager.demands import SESSION_SCOPE, chain_demand
from vbrcore.manager.keys import RepositoryKeys
from vbrcore.manager.report import Outcome
from vbrcore.manager.target import Target
from vbrcore.model.inventory import Repository
from vbrcore.model.session import Totals
from vbrcore.mover.messages import TargetWork
from vbrcore.secrets.repositorykey import RepositoryKey


class RekeyRequest(msgspec.Struct, frozen=True):
    """The new key itself is in the catalog."""

    repository_id: str


async def run_rekey(context: Context) -> Outcome:
    """Wrap the key of every chain anew, one chain after the other. Until all are done, the old key opens as well."""
    catalog = context.catalog
    request = msgspec.convert(context.session.request, RekeyRequest)
    repository = await context.gateways.repository(request.repository_id)
    key = catalog.next_repository_key(repository.repository_id)
    if key is None:
        context.log.info("nothing is to be changed")
        return Outcome()
    warnings = Warnings(context.log)
    storage = await asyncio.to_thread(context.storages.open, repository)
    # Also the places of chains that a running session may be about to begin with the old key.
    jobs = [job for job in catalog.jobs() if job.repository_id == repository.repository_id]
    places = {job.chain_directory(encrypted=True) for job in jobs}
    stored_bytes = 0
    catalog.update_session(context.session.session_id, state="running")
    for directory in sorted(places.union(await asyncio.to_thread(list_chains, storage))):
        context.stop.check()
        await context.leases.acquire(chain_demand(context.session, repository, directory))
        newest = (await asyncio.to_thread(read_files, storage, directory)).newest
        if newest is not None and newest.slot.encrypted:
            chain = Chain(directory, newest.contents.job_id, "", newest.slot.block_size_bytes)
            work = target_work(context, repository, chain, may_fill=True)
            stored_bytes += await _rekey(context, repository, work, key, warnings)
        elif newest is not None:
            warnings.add(f"{directory}: this chain is not encrypted, so nothing was changed there")
        context.leases.release(SESSION_SCOPE)
    catalog.end_key_change(repository.repository_id)
    return Outcome(totals=Totals(stored_bytes=stored_bytes), warnings=warnings.all())


async def _rekey(
    context: Context, repository: Repository, work: TargetWork, key: RepositoryKey, warnings: Warnings
) -> int:
    """Return the bytes that were appended."""
    target = Target(
        context.crew,
        work,
        context.log,
        RepositoryKeys(context.catalog, repository.repository_id),
        server=repository.server,
    )
    try:
        run = await target.ready()
        for warning in run.warnings:
            warnings.add(warning)
        if run.chain.key is not None:
            slots = await asyncio.to_thread(key.wrap, run.chain.key, run.chain.chain_id)
            lists = await run.use_key_slots(slots)
            context.log.info(f"{work.directory}: {lists} contents lists written with the new key slots")
        await target.seal()
        return target.stored_bytes
    finally:
        await target.kill()
