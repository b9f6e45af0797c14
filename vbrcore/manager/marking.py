"""A target mover that names damage in the lists of a chain's files. It needs no key, and no source."""

from vbrcore.chain.diagnosis import Diagnosis
from vbrcore.manager.chains import Chain, target_work
from vbrcore.manager.context import Context, pause
from vbrcore.manager.demands import SESSION_SCOPE, chain_demand
from vbrcore.manager.machine import RETRY_WAITS_S
from vbrcore.manager.target import work_at
from vbrcore.model.errors import ProtocolError, VbrError, error_from
from vbrcore.model.inventory import Repository
from vbrcore.mover.messages import (
    ChainPoints,
    DamageMarked,
    Ended,
    Failed,
    Log,
    MarkDamaged,
    Progress,
    Ready,
    Seal,
    TargetWork,
)


async def mark(context: Context, repository: Repository, chain: Chain, diagnosis: Diagnosis) -> int:
    """Mark what was found; return how many extents were named. Waits for the chain; what can pass is tried again."""
    work = target_work(context, repository, chain, may_fill=True)
    order = MarkDamaged(diagnosis.marks, tuple(bad.file_id for bad in diagnosis.bad_tables))
    await context.leases.acquire(chain_demand(context.session, repository, chain.directory))
    try:
        for wait_s in RETRY_WAITS_S:
            try:
                return await _run(context, work, order)
            except VbrError as error:
                if not error.retryable:
                    raise
                context.log.warning(f"{error.code}: {error}; tried again in {wait_s:.0f} s")
                await pause(wait_s, context.stop)
                context.stop.check()
        return await _run(context, work, order)
    finally:
        context.leases.release(SESSION_SCOPE)


async def _run(context: Context, work: TargetWork, order: MarkDamaged) -> int:
    server = context.catalog.repository(work.repository_id).server
    handle = await context.crew.start("target", task_id="", disk=work.directory, server=server)
    marked: int | None = None
    try:
        await handle.send(work_at(handle, work))
        while True:
            match await handle.receive():
                case Ready():
                    await handle.send(order)
                case DamageMarked(marks=count):
                    marked = count
                    context.log.info(f"{work.directory}: {count} damaged extents named in the lists of their files")
                    await handle.send(Seal())
                case ChainPoints() | Progress():
                    continue
                case Log(time=at, level=level, message=text):
                    context.log.write(level, text, **handle.said(at))
                case Failed(error=error):
                    raise error_from(error)
                case Ended() if marked is not None:
                    return marked
                case other:
                    raise ProtocolError(f"a target mover that marks said {type(other).__name__} out of turn")
    finally:
        await handle.kill()
