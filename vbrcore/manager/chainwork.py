"""What the target mover of a job is told: the chain's place in its repository."""

from vbrcore.manager.context import Context
from vbrcore.manager.keys import RepositoryKeys
from vbrcore.model.ids import file_name_part, short_id
from vbrcore.model.inventory import Repository
from vbrcore.model.job import Job
from vbrcore.mover.messages import TargetWork


def chain_directory(job: Job, *, encrypted: bool) -> str:
    """Return the chain's directory in its repository: the job's name for people, its id for certainty.

    In an encrypted repository the name is not told.
    """
    if encrypted:
        return short_id(job.job_id)
    return f"{file_name_part(job.name)}_{short_id(job.job_id)}"


def backup_work(
    context: Context, job: Job, repository: Repository, keys: RepositoryKeys, *, active_full: bool = False
) -> TargetWork:
    """Return the work of a session that writes the job's chain."""
    return TargetWork(
        repository_path=repository.path,
        repository_id=repository.repository_id,
        reserve_bytes=repository.reserve_bytes,
        directory=chain_directory(job, encrypted=keys.encrypted),
        job_id=job.job_id,
        job_name=job.name,
        session_id=context.session.session_id,
        created=context.session.created,
        block_size_bytes=job.block_size_bytes,
        index_directory=str(context.home / "cache" / "index" / repository.repository_id),
        new_generation=active_full,
    )
