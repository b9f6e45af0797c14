"""The API server: every operation as an HTTP route, typed requests in, typed replies or `ErrorInfo` out."""

import asyncio
import logging
from typing import Any

import msgspec
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from vbrcore.api import operations
from vbrcore.api.operations import Operation
from vbrcore.model.errors import ErrorInfo, InvalidValue, PermissionRefused, VbrError, info_of
from vbrcore.service import (
    credentials,
    explaining,
    health,
    hypervisors,
    importing,
    jobs,
    mapping,
    network,
    plugins,
    points,
    processes,
    recovery,
    repositories,
    retention,
    schedules,
    servers,
    sessions,
    status,
)
from vbrcore.service.routes import Call, Routes
from vbrcore.service.service import Service

_log = logging.getLogger(__name__)

_MAX_BODY_BYTES = 4 * 1024 * 1024
_HTTP_STATUS = {2: 400, 4: 404, 5: 409, 6: 403, 18: 503, 1: 500}  # by exit code; what lies behind us is 502

# These begin sessions, so they wait until what dead sessions left is undone.
_BEGINNING = frozenset(
    {
        operations.JOB_RUN.name,
        operations.RESTORE_DISK.name,
        operations.RESTORE_MACHINE.name,
        operations.VERIFY.name,
        operations.POINT_DELETE.name,
        operations.HEALTH_CHECK.name,
        operations.REPOSITORY_PASSPHRASE.name,
    }
)
# These never wait: they are how one looks at what is going on, and how managers speak to us.
_AT_ONCE = frozenset(
    {
        operations.SERVICE_SHOW.name,
        operations.SERVICE_STOP.name,
        operations.SESSION_SHOW.name,
        operations.SESSION_LOG.name,
        operations.SESSIONS_LIVE.name,
        operations.PROCESS_LIST.name,
        operations.EXPLAIN.name,
        operations.SLOTS.name,
        operations.LIVE_STATUS.name,
        operations.POKE.name,
    }
)
_NOT_AUDITED = frozenset({operations.LIVE_STATUS.name, operations.POKE.name})


def all_routes() -> Routes:
    routes = Routes()
    for module in (
        credentials,
        explaining,
        health,
        hypervisors,
        importing,
        jobs,
        mapping,
        network,
        plugins,
        points,
        retention,
        processes,
        recovery,
        repositories,
        schedules,
        servers,
        sessions,
        status,
    ):
        module.add_routes(routes)
    return routes


def make_app(service: Service) -> Starlette:
    routes = all_routes()
    return Starlette(
        routes=[
            Route(operation.path, _Endpoint(service, routes, operation).reply, methods=[operation.method])
            for operation in operations.ALL
        ]
    )


class _Endpoint:
    """One operation: from an HTTP request to a reply."""

    def __init__(self, service: Service, routes: Routes, operation: Operation[Any, Any]) -> None:
        self._service = service
        self._operation = operation
        self._handler, self._is_async = routes.handler(operation)
        self._audited = operation.method != "GET" and operation.name not in _NOT_AUDITED

    async def reply(self, http: Request) -> Response:
        """Answer with the reply or with an `ErrorInfo`, whatever happens."""
        try:
            if not http.state.allowed:
                raise PermissionRefused(f"user {http.state.uid} may not use this service")
            self._service.call_begins()
            try:
                return _json(await self._answer(http))
            finally:
                self._service.call_ends()
        except VbrError as error:
            return _refusal(error.info())
        except ClientDisconnect:
            return Response(status_code=400)
        except Exception as error:  # noqa: BLE001 - a bug in one answer ends neither the service nor the connection
            _log.critical("%s failed", self._operation.name, exc_info=error)
            return _refusal(info_of(error))

    async def _answer(self, http: Request) -> Any:
        request = await _request(http, self._operation)
        call = Call(self._service, http.state.uid, http.state.gid)
        try:
            reply = await self._handle(call, request)
        except VbrError as error:
            await self._audit(call, request, error.code)
            raise
        await self._audit(call, request, "ok")
        return reply

    async def _handle(self, call: Call, request: Any) -> Any:
        if self._operation.name not in _AT_ONCE:
            await self._service.recovered()
        if self._operation.name in _BEGINNING:
            await self._service.clean()
        if self._is_async:
            return await self._handler(call, request)
        return await asyncio.to_thread(self._handler, call, request)

    async def _audit(self, call: Call, request: Any, outcome: str) -> None:
        """Note a change. The subject is a name or ids, never a setting or a secret."""
        if not self._audited:
            return
        points = getattr(request, "points", ())
        subject = getattr(request, "name", "") or getattr(request, "point", "") or " ".join(points)
        audit = self._service.catalog.audit
        await asyncio.to_thread(audit, uid=call.uid, operation=self._operation.name, subject=subject, outcome=outcome)


def _json(reply: Any) -> Response:
    return Response(msgspec.json.encode(reply), media_type="application/json")


def _refusal(info: ErrorInfo) -> Response:
    return Response(
        msgspec.json.encode(info),
        status_code=_HTTP_STATUS.get(info.exit_code, 502),
        media_type="application/json",
    )


async def _request(http: Request, operation: Operation[Any, Any]) -> Any:
    """Decode the request, bounded before it is read. Raises `InvalidValue` naming the field that is wrong."""
    try:
        if operation.method == "GET":
            return msgspec.convert(dict(http.query_params), operation.request, strict=False)
        body = bytearray()
        async for chunk in http.stream():
            body += chunk
            if len(body) > _MAX_BODY_BYTES:
                raise InvalidValue(f"a request may not be longer than {_MAX_BODY_BYTES} bytes")
        return msgspec.json.decode(body, type=operation.request)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidValue(f"{operation.name}: {error}") from error
