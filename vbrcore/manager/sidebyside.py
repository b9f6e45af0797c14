"""Several pieces of work at once, all ended together where the session must end now."""

import asyncio
import traceback
from collections.abc import Awaitable, Mapping

from vbrcore.manager.context import Context
from vbrcore.model.errors import LeaseLost, VbrError


async def side_by_side(context: Context, work: Mapping[str, Awaitable[None]]) -> dict[str, VbrError]:
    """Do all of it; return what ended the pieces that failed, by name. Raises nothing expected."""
    running = {name: asyncio.ensure_future(piece) for name, piece in work.items()}
    enders = [asyncio.create_task(event.wait()) for event in (context.stop.now, context.leases.lost)]
    try:
        left = set(running.values())
        while left:
            done, _ = await asyncio.wait({*left, *enders}, return_when=asyncio.FIRST_COMPLETED)
            left -= done
            if not done.isdisjoint(enders):
                for piece in left:
                    piece.cancel()
                await asyncio.gather(*left, return_exceptions=True)
                left.clear()
    finally:
        for ender in enders:
            ender.cancel()
    found = {name: _error(context, name, piece) for name, piece in running.items()}
    return {name: error for name, error in found.items() if error is not None}


def _error(context: Context, name: str, piece: "asyncio.Future[None]") -> VbrError | None:
    if piece.cancelled():
        lost = context.leases.lost.is_set()
        return LeaseLost("the session lost its leases") if lost else context.stop.reason
    error = piece.exception()
    if error is None or isinstance(error, VbrError):
        return error
    context.log.error("".join(traceback.format_exception(error)), machine=name)
    return VbrError(f"{name}: {type(error).__name__}: {error}")
