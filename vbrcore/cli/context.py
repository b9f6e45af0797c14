"""The connection to the service that a command uses."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    import msgspec

    from vbrcore.api.client import Client
    from vbrcore.api.operations import Operation

    Req = TypeVar("Req", bound=msgspec.Struct)
    Rep = TypeVar("Rep")


def connect(args: argparse.Namespace, *, start: bool = True) -> Client:
    """Return a client of the home that was named; it starts a service where none runs, unless told not to."""
    from vbrcore.api.client import Client  # noqa: PLC0415 - not for --help

    return Client(args.home, start=start)


def call(args: argparse.Namespace, operation: Operation[Req, Rep], request: Req) -> Rep:
    """Ask one question."""
    with connect(args) as client:
        return client.call(operation, request)
