"""Chain mapping: a job goes on with a chain that is there already, e.g. one that was imported."""

from pathlib import PurePosixPath

from vbrcore.api import operations, types
from vbrcore.catalog.catalog import Catalog
from vbrcore.chain.files import ChainFiles, read_files
from vbrcore.chain.listing import list_chains
from vbrcore.model.errors import (
    FormatInvalid,
    InUse,
    InvalidValue,
    JobAlreadyRunning,
    KeyNeeded,
    NotEncrypted,
    NotFound,
)
from vbrcore.model.inventory import Repository
from vbrcore.model.job import Job
from vbrcore.service.chains import OpenedChain, open_chain
from vbrcore.service.jobs import find_job, job_view
from vbrcore.service.routes import Call, Routes


def add_routes(routes: Routes) -> None:
    routes.add(operations.JOB_MAP, _map)


def _map(call: Call, request: types.JobMap) -> types.JobView:
    catalog = call.service.catalog
    job = find_job(call, request.name)
    if (live := catalog.live_session_of(job.job_id)) is not None:
        raise JobAlreadyRunning(f"session {live.session_id} of job {job.name} still runs")
    repository = catalog.repository(job.repository_id)
    mapped = check_mapping(call, repository, job, request.directory)
    catalog.update_job(job.job_id, directory=mapped.directory)
    mapped.adopt(catalog, job.job_id)
    return job_view(call, job.job_id)


class Mapped:
    """A directory that a job may go on with, and the chains in it: one, or one of each machine below it."""

    def __init__(self, repository: Repository, directory: str, chains: dict[str, OpenedChain]) -> None:
        self.directory = directory
        self._repository_id = repository.repository_id
        self._chains = chains

    def adopt(self, catalog: Catalog, job_id: str) -> None:
        """Have the points of the chains be listed under the job."""
        for directory, opened in self._chains.items():
            catalog.replace_points(self._repository_id, job_id, directory, opened.points)


def check_mapping(call: Call, repository: Repository, job: Job, directory: str) -> Mapped:
    """Return what the job would go on with; `job` need not be in the catalog yet.

    Raises `NotFound`, `InUse`, `InvalidValue` (block size), `NotEncrypted`, `KeyNeeded`, `WrongPassphrase`,
    `FormatNewer`.
    """
    catalog = call.service.catalog
    directory = _relative(directory, repository)
    storage = call.service.elsewhere.open(repository)
    below = f"{directory}/"
    names = [name for name in list_chains(storage) if name == directory or (job.per_machine and name.startswith(below))]
    if not names:
        raise NotFound(f"there is no chain {directory} in repository {repository.name}")
    _check_free(catalog, repository, job, directory)
    chains = {}
    for name in names:
        found = read_files(storage, name)
        _check_fits(found, name, job)
        opened = open_chain(catalog, repository.repository_id, name, found)
        if opened.encrypted != catalog.is_encrypted(repository.repository_id):
            if opened.encrypted:
                raise KeyNeeded(f"the chain {name} is encrypted: 'repository rescan' takes its passphrase")
            raise NotEncrypted(f"the chain {name} is not encrypted, but repository {repository.name} is")
        if opened.locked:
            raise opened.locked
        chains[name] = opened
    return Mapped(repository, directory, chains)


def _relative(directory: str, repository: Repository) -> str:
    """Return the directory as chains are named. Raises `InvalidValue` for what is outside of the repository."""
    path = PurePosixPath(directory)
    if path.is_absolute():
        if not path.is_relative_to(repository.path):
            raise InvalidValue(f"{directory} is not in the repository at {repository.path}")
        path = path.relative_to(repository.path)
    if not path.parts or ".." in path.parts:
        raise InvalidValue(f"{directory!r} names no directory below a repository")
    return path.as_posix()


def _check_free(catalog: Catalog, repository: Repository, job: Job, directory: str) -> None:
    encrypted = catalog.is_encrypted(repository.repository_id)
    for other in catalog.jobs():
        if other.job_id == job.job_id or other.repository_id != repository.repository_id:
            continue
        own = other.chain_directory(encrypted=encrypted)
        if own == directory or own.startswith(f"{directory}/") or directory.startswith(f"{own}/"):
            raise InUse(f"the chain {directory} is used by job {other.name}")


def _check_fits(found: ChainFiles, name: str, job: Job) -> None:
    """Raise `InvalidValue` where the job's next session could not go on in the chain's generation."""
    if not found.files:
        raise FormatInvalid(f"no file of the chain {name} can be read: {found.unreadable[0][1]}")
    pointed = next((file for file in reversed(found.files) if file.contents.points), found.files[-1])
    if pointed.slot.block_size_bytes != job.block_size_bytes:
        raise InvalidValue(
            f"the chain {name} has blocks of {pointed.slot.block_size_bytes} bytes, job {job.name} of"
            f" {job.block_size_bytes}: make a job with the chain's block size"
        )
    if pointed.contents.machine_id and not job.per_machine:
        raise InvalidValue(f"the chain {name} is that of a single machine, and job {job.name} writes one for all")
