"""One source mover for one attempt of one task."""

from collections.abc import Callable

from vbrcore.manager.crew import Crew
from vbrcore.manager.keys import RepositoryKeys
from vbrcore.manager.log import SessionLog
from vbrcore.model.errors import MoverLost, ProtocolError, error_from
from vbrcore.mover.messages import (
    CopyWork,
    DiskDone,
    Ended,
    Examined,
    ExamineWork,
    Failed,
    KeyWanted,
    Log,
    Progress,
    Ready,
    RestoreDone,
    RestoreWork,
    SourceWork,
    UseKey,
)
from vbrcore.transport.client import MoverHandle
from vbrcore.transport.messages import Role


async def run_mover(
    crew: Crew,
    role: Role,
    work: SourceWork | RestoreWork | CopyWork | ExamineWork,
    *,
    machine: str,
    disk: str,
    log: SessionLog,
    progress: Callable[[Progress], None],
    keys: RepositoryKeys | None = None,
) -> DiskDone | RestoreDone | Examined:
    """Start a mover, give it its work, and return what it did. The mover is gone when this returns or raises.

    `keys` are those of the repository that a restore mover reads.
    """
    handle = await crew.start(role, task_id=work.task_id, disk=f"{machine}/{disk}")
    try:
        await handle.send(work)
        return await _follow(handle, work.task_id, machine=machine, disk=disk, log=log, progress=progress, keys=keys)
    finally:
        await handle.kill()


async def _follow(
    handle: MoverHandle,
    task_id: str,
    *,
    machine: str,
    disk: str,
    log: SessionLog,
    progress: Callable[[Progress], None],
    keys: RepositoryKeys | None,
) -> DiskDone | RestoreDone | Examined:
    done: DiskDone | RestoreDone | Examined | None = None
    while True:
        match await handle.receive():
            case Ready():  # the disk is open
                continue
            case KeyWanted(chain_id=chain_id, key_slots=key_slots) if keys is not None:
                await handle.send(UseKey(await keys.secret(chain_id, key_slots)))
            case Progress() as message:
                progress(message)
            case Log(level=level, message=text):
                log.write(level, text, kind="mover", task_id=task_id, machine=machine, disk=disk, pid=handle.pid)
            case DiskDone() | RestoreDone() | Examined() as message:
                done = message
            case Failed(error=error):
                raise error_from(error)
            case Ended():
                if done is None:
                    raise MoverLost(f"{machine}/{disk}: the mover ended without a result")
                return done
            case other:
                raise ProtocolError(f"{machine}/{disk}: the mover said {type(other).__name__} out of turn")
