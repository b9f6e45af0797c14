"""What a task needs at once, as demands for the balancer (levels of DESIGN section 5). Pure."""

import msgspec

from vbrcore.balancer.candidates import Candidates
from vbrcore.balancer.demand import (
    CLASS_ARCHIVE,
    CLASS_COPY,
    CLASS_REGULAR,
    CLASS_RESTORE,
    RANK_OPEN_MACHINE,
    Choice,
    Demand,
    Unit,
    window_gate,
)
from vbrcore.balancer.rank import session_class
from vbrcore.model.inventory import Hypervisor, Machine, Repository, Server
from vbrcore.model.job import Job
from vbrcore.model.session import Session, Task

SESSION_SCOPE = "session"


def class_of(job: Job, session: Session | None = None) -> int:
    """Return the class of what a job's sessions do, upkeep included; that of one session, which may be a quick one."""
    quick = session is not None and session.request.get("quick") is True
    if job.priority == "low" and not quick:
        return CLASS_ARCHIVE
    return session_class(job.run_kind, high=job.priority == "high", quick=quick)


def chain_demand(
    session: Session, repository: Repository, directory: str, *, class_rank: int = CLASS_REGULAR
) -> Demand:
    """Level 1: the chain, by the session, from start to end."""
    return Demand(
        demand_id=f"{session.session_id}:chain:{repository.repository_id}/{directory}",
        session_id=session.session_id,
        level="chain",
        scope=SESSION_SCOPE,
        created=session.created,
        class_rank=class_rank,
        manual=session.manual,
        units=(Unit(f"chain:{repository.repository_id}/{directory}"),),
        session_started=session.started or session.created,
    )


def disk_demand(
    session: Session,
    task: Task,
    machine: Machine,
    *,
    class_rank: int = CLASS_REGULAR,
    scope: str,
    hypervisor: Hypervisor,
    found: Candidates,
    repository: Repository,
    expected_s: float = 0.0,
    wait_for_best: bool = False,
) -> Demand:
    """Levels 2 and 3 in one transaction: a machine's first disk. A session of the schedule waits at its window."""
    datastores = dict.fromkeys(disk.datastore for disk in machine.disks if disk.datastore and not disk.skipped)
    further = further_disk_demand(
        session, task, found=found, repository=repository, expected_s=expected_s, wait_for_best=wait_for_best
    )
    return msgspec.structs.replace(
        further,
        class_rank=class_rank,
        machine_scope=scope,
        machine_units=(
            Unit(f"machine:{hypervisor.hypervisor_id}/{machine.machine_id}"),
            *(Unit(f"datastore:{hypervisor.hypervisor_id}/{name}") for name in datastores),
        ),
        gates=() if session.manual else (window_gate(session.job_id),),
    )


def further_disk_demand(
    session: Session,
    task: Task,
    *,
    found: Candidates,
    repository: Repository,
    expected_s: float = 0.0,
    wait_for_best: bool = False,
) -> Demand:
    """Level 3: a further disk of a machine whose snapshot is open counts 700."""
    return Demand(
        demand_id=task.task_id,
        session_id=session.session_id,
        level="task",
        scope=task.task_id,
        created=task.created,
        class_rank=RANK_OPEN_MACHINE,
        manual=session.manual,
        units=(Unit(f"repository:{repository.repository_id}"),),
        choices=found.choices,
        excluded=found.excluded,
        expected_bytes=task.size_bytes,
        expected_s=expected_s,
        wait_for_best=wait_for_best,
        session_started=session.started or session.created,
    )


def read_demand(
    session: Session, task: Task, repository: Repository, repository_server: Server, *, class_rank: int = CLASS_RESTORE
) -> Demand:
    """A disk of a point that is restored or verified, or a chain that is examined: it runs beside the repository."""
    return Demand(
        demand_id=task.task_id,
        session_id=session.session_id,
        level="task",
        scope=task.task_id,
        created=task.created,
        class_rank=class_rank,
        manual=session.manual,
        units=(Unit(f"repository:{repository.repository_id}"),),
        choices=(Choice(repository_server.name, "", (Unit(f"host:{repository_server.server_id}"),)),),
        expected_bytes=task.size_bytes,
        session_started=session.started or session.created,
        writes=False,
    )


def upkeep_demand(
    session: Session,
    repository: Repository,
    repository_server: Server,
    directory: str,
    *,
    class_rank: int = CLASS_REGULAR,
) -> Demand:
    """Level 3: a chain whose space is given back, or that is made a full of, is one task of its repository.

    It may run where the repository is full: it is what makes room.
    """
    return Demand(
        demand_id=f"{session.session_id}:upkeep:{directory}",
        session_id=session.session_id,
        level="task",
        scope=f"upkeep:{directory}",
        created=session.created,
        class_rank=class_rank,
        manual=session.manual,
        units=(Unit(f"repository:{repository.repository_id}"),),
        choices=(Choice(repository_server.name, "", (Unit(f"host:{repository_server.server_id}"),)),),
        session_started=session.started or session.created,
        writes=False,
    )


def copy_demand(
    session: Session,
    task: Task,
    *,
    source: tuple[Repository, Server],
    target: tuple[Repository, Server],
    class_rank: int = CLASS_COPY,
) -> Demand:
    """A disk of a point that is copied: a slot of both repositories, and the budget of each server beside them."""
    (from_repository, from_server), (to_repository, to_server) = source, target
    from_unit = Unit(f"repository:{from_repository.repository_id}")
    hosts = dict.fromkeys((from_server.server_id, to_server.server_id))
    return msgspec.structs.replace(
        read_demand(session, task, from_repository, from_server),
        class_rank=class_rank,
        units=(from_unit, Unit(f"repository:{to_repository.repository_id}")),
        choices=(Choice(from_server.name, "", tuple(Unit(f"host:{server_id}") for server_id in hosts)),),
        writes=True,
        only_read=(from_unit.resource,),
    )
