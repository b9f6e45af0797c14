"""One attempt of one task: a mover that sends, and the target that expects it and nobody else."""

import msgspec

from vbrcore.manager.context import Context
from vbrcore.manager.share import Share
from vbrcore.manager.source import run_mover
from vbrcore.manager.target import TargetRun
from vbrcore.model.errors import MoverLost, VbrError
from vbrcore.model.inventory import Server
from vbrcore.model.routes import Route, data_route
from vbrcore.mover.messages import CopyWork, DiskDone, SourceWork


async def send_disk(
    context: Context,
    target: TargetRun,
    work: SourceWork | CopyWork,
    *,
    between: tuple[Server, Server],
    attempt: int,
    machine: str,
    disk: str,
) -> DiskDone:
    """Do the work `between` the source's server and the target's; return what was done.

    Its endpoint is made here. Raises why it was not done, and then the attempt is void; `NoRoute`.
    """
    source, beside = between
    route = data_route(source, beside)
    # A configuration is small and its mover takes no orders meanwhile: it is not limited.
    limited = isinstance(work, CopyWork) or work.kind == "disk"
    try:
        with Share(context.catalog, context.log, route if limited else Route("socket"), work.task_id) as share:
            endpoint = await target.expect(work.task_id, attempt, route)
            done = await run_mover(
                context.crew,
                "source" if isinstance(work, SourceWork) else "copy",
                msgspec.structs.replace(
                    work, endpoint=msgspec.structs.replace(endpoint, rate_bytes_s=share.rate_bytes_s)
                ),
                server=source.name,
                machine=machine,
                disk=disk,
                log=context.log,
                progress=lambda message: context.live.update(work.task_id, message),
                target=target,
                share=share,
            )
    except VbrError as error:
        await target.void(work.task_id)
        cause = target.lost or error
        raise cause from error.__cause__
    if not isinstance(done, DiskDone):
        raise MoverLost(f"{machine}/{disk}: the mover ended without a result")
    return done
