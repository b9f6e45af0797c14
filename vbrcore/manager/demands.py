"""What a task needs at once, as demands for the balancer (levels of DESIGN section 5). Pure."""

from collections.abc import Iterable

from vbrcore.balancer.candidates import server_units
from vbrcore.balancer.demand import (
    CLASS_REGULAR,
    CLASS_RESTORE,
    RANK_OPEN_MACHINE,
    Choice,
    Demand,
    Unit,
)
from vbrcore.model.inventory import Hypervisor, Machine, Repository, Server
from vbrcore.model.session import Session, Task

SESSION_SCOPE = "session"


def chain_demand(session: Session, repository: Repository, directory: str) -> Demand:
    """Level 1: the chain, by the session, from start to end."""
    return Demand(
        demand_id=f"{session.session_id}:chain:{repository.repository_id}/{directory}",
        session_id=session.session_id,
        level="chain",
        scope=SESSION_SCOPE,
        created=session.created,
        class_rank=CLASS_REGULAR,
        manual=session.manual,
        units=(Unit(f"chain:{repository.repository_id}/{directory}"),),
        session_started=session.started or session.created,
    )


def _choices(modes: Iterable[tuple[Server, str]], repository_server: Server) -> tuple[Choice, ...]:
    return tuple(
        Choice(server.name, mode, server_units(server.server_id, (repository_server.server_id,)))
        for server, mode in modes
    )


def disk_demand(
    session: Session,
    task: Task,
    machine: Machine,
    *,
    scope: str,
    hypervisor: Hypervisor,
    modes: Iterable[tuple[Server, str]],
    repository: Repository,
    repository_server: Server,
) -> Demand:
    """Levels 2 and 3 in one transaction: a machine's first disk."""
    datastores = dict.fromkeys(disk.datastore for disk in machine.disks if disk.datastore and not disk.skipped)
    return Demand(
        demand_id=task.task_id,
        session_id=session.session_id,
        level="task",
        scope=task.task_id,
        created=task.created,
        class_rank=CLASS_REGULAR,
        manual=session.manual,
        units=(Unit(f"repository:{repository.repository_id}"),),
        machine_scope=scope,
        machine_units=(
            Unit(f"machine:{hypervisor.hypervisor_id}/{machine.machine_id}"),
            *(Unit(f"datastore:{hypervisor.hypervisor_id}/{name}") for name in datastores),
        ),
        choices=_choices(modes, repository_server),
        expected_bytes=task.size_bytes,
        session_started=session.started or session.created,
    )


def further_disk_demand(
    session: Session,
    task: Task,
    *,
    modes: Iterable[tuple[Server, str]],
    repository: Repository,
    repository_server: Server,
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
        choices=_choices(modes, repository_server),
        expected_bytes=task.size_bytes,
        session_started=session.started or session.created,
    )


def read_demand(session: Session, task: Task, repository: Repository, repository_server: Server) -> Demand:
    """A disk of a point that is restored or verified: it runs beside the repository."""
    return Demand(
        demand_id=task.task_id,
        session_id=session.session_id,
        level="task",
        scope=task.task_id,
        created=task.created,
        class_rank=CLASS_RESTORE,
        manual=session.manual,
        units=(Unit(f"repository:{repository.repository_id}"),),
        choices=(Choice(repository_server.name, "", (Unit(f"host:{repository_server.server_id}"),)),),
        expected_bytes=task.size_bytes,
        session_started=session.started or session.created,
        writes=False,
    )


def upkeep_demand(session: Session, repository: Repository, repository_server: Server, directory: str) -> Demand:
    """Level 3: a chain whose space is given back, or that is made a full of, is one task of its repository.

    It may run where the repository is full: it is what makes room.
    """
    return Demand(
        demand_id=f"{session.session_id}:upkeep:{directory}",
        session_id=session.session_id,
        level="task",
        scope=f"upkeep:{directory}",
        created=session.created,
        class_rank=CLASS_REGULAR,
        manual=session.manual,
        units=(Unit(f"repository:{repository.repository_id}"),),
        choices=(Choice(repository_server.name, "", (Unit(f"host:{repository_server.server_id}"),)),),
        session_started=session.started or session.created,
        writes=False,
    )
