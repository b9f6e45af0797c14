"""One source mover for one attempt of one task."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Protocol

from vbrcore.manager.crew import Crew
from vbrcore.manager.keys import RepositoryKeys
from vbrcore.manager.log import SessionLog
from vbrcore.manager.share import Share
from vbrcore.model.errors import MoverLost, ProtocolError, error_from
from vbrcore.mover.messages import (
    CopyWork,
    DiskDone,
    Ended,
    Examined,
    ExamineWork,
    Failed,
    KeyWanted,
    Listening,
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


class Peer(Protocol):
    """What a mover sends to: `gone` is set when it is lost, `dial` makes it dial a mover that listens."""

    @property
    def gone(self) -> asyncio.Event: ...

    async def dial(self, task_id: str, port: int) -> None: ...


async def run_mover(
    crew: Crew,
    role: Role,
    work: SourceWork | RestoreWork | CopyWork | ExamineWork,
    *,
    server: str,
    machine: str,
    disk: str,
    log: SessionLog,
    progress: Callable[[Progress], None],
    keys: RepositoryKeys | None = None,
    target: Peer | None = None,
    share: Share | None = None,
) -> DiskDone | RestoreDone | Examined:
    """Start a mover on a server, give it its work, and return what it did. It is gone when this returns or raises.

    `keys` are those of the repository that a restore mover reads; `target` is told where a source listens, and that
    the attempt is over. `share` is what the task may send between sites.
    """
    handle = await crew.start(role, task_id=work.task_id, disk=f"{machine}/{disk}", server=server)
    try:
        await handle.send(work)
        async with _ending_with(target, handle), share.kept(handle) if share is not None else contextlib.nullcontext():
            return await _follow(
                handle, work.task_id, machine=machine, disk=disk, log=log, progress=progress, keys=keys, target=target
            )
    finally:
        await handle.kill()


@contextlib.asynccontextmanager
async def _ending_with(target: Peer | None, handle: MoverHandle) -> AsyncIterator[None]:
    """Kill the mover when its target is lost: one that is stopped keeps its connection, and would be waited for."""
    if target is None:
        yield
        return

    async def end() -> None:
        await target.gone.wait()
        await handle.kill()

    watch = asyncio.create_task(end(), name="ending-with-target")
    try:
        yield
    finally:
        watch.cancel()
        await asyncio.gather(watch, return_exceptions=True)


async def _follow(
    handle: MoverHandle,
    task_id: str,
    *,
    machine: str,
    disk: str,
    log: SessionLog,
    progress: Callable[[Progress], None],
    keys: RepositoryKeys | None,
    target: Peer | None,
) -> DiskDone | RestoreDone | Examined:
    done: DiskDone | RestoreDone | Examined | None = None
    while True:
        match await handle.receive():
            case Ready():  # the disk is open
                continue
            case KeyWanted() | Listening() as need:
                await _meet(need, handle, keys, target)
            case Progress() as message:
                progress(message)
            case Log(time=at, level=level, message=text):
                log.write(level, text, task_id=task_id, machine=machine, disk=disk, **handle.said(at))
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


async def _meet(
    need: KeyWanted | Listening, handle: MoverHandle, keys: RepositoryKeys | None, target: Peer | None
) -> None:
    """Give a mover what it waits for: the key of its chain, or its target."""
    if isinstance(need, KeyWanted) and keys is not None:
        await handle.send(UseKey(await keys.secret(need.chain_id, need.key_slots)))
    elif isinstance(need, Listening) and target is not None:
        await target.dial(need.task_id, need.port)
    else:
        raise ProtocolError(f"a mover waits for the answer to {type(need).__name__}, which there is not")
