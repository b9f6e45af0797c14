"""The chains that sessions write, and what the target mover of one is told."""

import msgspec

from vbrcore.catalog.catalog import Catalog
from vbrcore.manager.context import Context
from vbrcore.model.inventory import Repository
from vbrcore.model.job import Job
from vbrcore.mover.messages import TargetWork


class Chain(msgspec.Struct, frozen=True):
    """A chain's place in its repository, and whose it is."""

    directory: str
    job_id: str
    job_name: str
    block_size_bytes: int


def chain_of(job: Job, *, encrypted: bool) -> Chain:
    """Return the chain of a job."""
    return Chain(job.chain_directory(encrypted=encrypted), job.job_id, job.name, job.block_size_bytes)


def copied_chains(catalog: Catalog, job: Job) -> tuple[Chain, ...]:
    """Return the chains of a backup copy: there is one for each chain that it has points of."""
    sizes = {
        stored.directory: stored.point.block_size_bytes
        for stored in catalog.points(job.job_id)
        if stored.repository_id == job.repository_id
    }
    return tuple(Chain(directory, job.job_id, job.name, size) for directory, size in sorted(sizes.items()))


def target_work(
    context: Context, repository: Repository, chain: Chain, *, may_fill: bool = False, new_generation: bool = False
) -> TargetWork:
    """Return the work of this session's target mover of a chain.

    `may_fill`: also into the reserve: what shortens a chain is what a full repository needs. `new_generation`: an
    active full.
    """
    return TargetWork(
        repository_path=repository.path,
        repository_id=repository.repository_id,
        reserve_bytes=0 if may_fill else repository.reserve_bytes,
        directory=chain.directory,
        job_id=chain.job_id,
        job_name=chain.job_name,
        session_id=context.session.session_id,
        created=context.session.created,
        block_size_bytes=chain.block_size_bytes,
        index_directory=str(context.home / "cache" / "index" / repository.repository_id),
        new_generation=new_generation,
    )
