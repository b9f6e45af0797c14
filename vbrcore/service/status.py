"""The service itself, and what managers tell it."""

import os

from vbrcore import __version__
from vbrcore.api import operations, types
from vbrcore.service.routes import Call, Routes
from vbrcore.service.values import moment


def add_routes(routes: Routes) -> None:
    routes.add(operations.SERVICE_SHOW, _show)
    routes.add(operations.SERVICE_STOP, _stop)
    routes.add(operations.LIVE_STATUS, _live_status)
    routes.add(operations.POKE, _poke)


def _show(call: Call, _request: types.Nothing) -> types.ServiceView:
    service = call.service
    return types.ServiceView(
        version=__version__,
        pid=os.getpid(),
        home=str(service.home.path),
        started=moment(service.started) or "",
        installed=not service.on_demand,
        sessions_running=len(service.catalog.live_sessions()),
    )


async def _stop(call: Call, request: types.ServiceStop) -> types.Nothing:
    """The reply is still sent: the server ends when the calls that it has begun are answered."""
    await call.service.stop(now=request.now)
    call.service.ended.set()
    return types.Nothing()


async def _live_status(call: Call, request: types.LiveStatus) -> types.Nothing:
    call.service.live.put(request)
    return types.Nothing()


async def _poke(call: Call, _request: types.Poke) -> types.Nothing:
    call.service.poke()
    return types.Nothing()
