"""The chains that sessions write, and what the target mover of one is told."""

from collections.abc import Iterable

import msgspec

from vbrcore.backupfile.codec import digest
from vbrcore.manager.context import Context
from vbrcore.model.ids import file_name_part
from vbrcore.model.inventory import Machine, Repository
from vbrcore.model.job import Job
from vbrcore.mover.messages import TargetWork

_MACHINE_PART = 12  # hexadecimal digits of a machine's id in the name of its chain


class Chain(msgspec.Struct, frozen=True):
    """A chain's place in its repository, and whose it is. `machine_id` and `machine`: of a chain of one machine.

    `chain_id`: of a copy, which has its source's (empty: any).
    """

    directory: str
    job_id: str
    job_name: str
    block_size_bytes: int
    machine_id: str = ""
    machine: str = ""
    chain_id: bytes = b""


def chain_of(job: Job, *, encrypted: bool) -> Chain:
    """Return the one chain of a job without chains per machine."""
    return Chain(job.chain_directory(encrypted=encrypted), job.job_id, job.name, job.block_size_bytes)


def chain_of_machine(job: Job, machine: Machine, existing: Iterable[str], *, encrypted: bool) -> Chain:
    """Return the chain of one machine: below the job's directory, found by the machine's id whatever its name was.

    `existing` are the directories of chains that are there.
    """
    parent = job.chain_directory(encrypted=encrypted)
    ending = digest(machine.machine_id.encode()).hex()[:_MACHINE_PART]
    named = ending if encrypted else f"{file_name_part(machine.name)}_{ending}"
    there = (one for one in existing if one.startswith(f"{parent}/") and one.endswith(ending))
    return Chain(
        next(there, f"{parent}/{named}"), job.job_id, job.name, job.block_size_bytes, machine.machine_id, machine.name
    )


def target_work(
    context: Context,
    repository: Repository,
    chain: Chain,
    *,
    may_fill: bool = False,
    new_generation: bool = False,
    fresh_after: float = 0.0,
) -> TargetWork:
    """Return the work of this session's target mover of a chain.

    `may_fill`: also into the reserve: what shortens a chain is what a full repository needs. `new_generation`: an
    active full, also made where the generation was begun before `fresh_after`.
    """
    return TargetWork(
        place=context.catalog.place(repository),
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
        fresh_after=fresh_after,
        rate_limit_bytes_s=repository.rate_limit_bytes_s,
        machine_id=chain.machine_id,
        machine=chain.machine,
        chain_id=chain.chain_id,
    )
