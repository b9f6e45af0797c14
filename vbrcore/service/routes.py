"""Handlers of operations. One is a function of the call and the request; plain functions run in a worker thread."""

import inspect
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import msgspec

from vbrcore.api.operations import Operation
from vbrcore.service.service import Service

Req = TypeVar("Req", bound=msgspec.Struct)
Rep = TypeVar("Rep")


class Call(msgspec.Struct, frozen=True):
    """Who asks: the service that is asked, and user and group id of the process at the other end of the socket."""

    service: Service
    uid: int
    gid: int


class Routes:
    """One handler per operation. `waits` operations begin sessions, so they wait for clean-ups."""

    def __init__(self) -> None:
        self._handlers: dict[str, Callable[[Call, Any], Any]] = {}

    def add(
        self,
        operation: Operation[Req, Rep],
        handler: Callable[[Call, Req], Rep] | Callable[[Call, Req], Awaitable[Rep]],
    ) -> None:
        self._handlers[operation.name] = handler

    def handler(self, operation: Operation[Any, Any]) -> tuple[Callable[[Call, Any], Any], bool]:
        """Return an operation's handler and whether it is a coroutine function."""
        handler = self._handlers[operation.name]
        return handler, inspect.iscoroutinefunction(handler)
