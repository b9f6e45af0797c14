"""A session that deletes points: the target mover writes contents lists without them."""

from collections.abc import Sequence

import msgspec

from vbrcore.api.types import PointDelete
from vbrcore.catalog.catalog import StoredPoint
from vbrcore.manager.chains import Chain, target_work
from vbrcore.manager.context import Context
from vbrcore.manager.demands import chain_demand
from vbrcore.manager.keys import RepositoryKeys
from vbrcore.manager.report import Outcome
from vbrcore.manager.target import Target
from vbrcore.model.inventory import Repository
from vbrcore.model.session import Totals


async def run_delete(context: Context) -> Outcome:
    """Forget points: contents lists without them. Blocks that only they needed are given back by retention."""
    request = msgspec.convert(context.session.request, PointDelete)
    by_chain: dict[tuple[str, str], list[StoredPoint]] = {}
    for point_id in request.points:
        stored = context.catalog.point(point_id)
        by_chain.setdefault((stored.repository_id, stored.directory), []).append(stored)
    stored_bytes = 0
    for (repository_id, directory), points in by_chain.items():
        repository = await context.gateways.repository(repository_id, directory)
        await context.leases.acquire(chain_demand(context.session, repository, directory))
        stored_bytes += await _forget(context, repository, directory, points)
    return Outcome(totals=Totals(stored_bytes=stored_bytes))


async def _forget(context: Context, repository: Repository, directory: str, points: Sequence[StoredPoint]) -> int:
    first = points[0].point
    chain = Chain(directory, first.job_id, first.job_name, first.block_size_bytes)
    work = target_work(context, repository, chain, may_fill=True)
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
            context.log.warning(warning)
        await run.forget(tuple(stored.point.point_id for stored in points))
        await target.seal()
        context.catalog.replace_points(repository.repository_id, first.job_id, directory, run.points)
        return target.stored_bytes
    finally:
        await target.kill()
