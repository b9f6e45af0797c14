"""What every part of a session works with."""

import asyncio
from pathlib import Path

import msgspec

from vbrcore.catalog.catalog import Catalog
from vbrcore.manager.crew import Crew
from vbrcore.manager.events import SessionEvents
from vbrcore.manager.gateways import Gateways
from vbrcore.manager.leases import Leases
from vbrcore.manager.live import LiveReporter
from vbrcore.manager.log import SessionLog
from vbrcore.manager.stop import StopWatch
from vbrcore.model.session import Session
from vbrcore.transport.storages import Storages


class Context(msgspec.Struct, frozen=True):
    """One session's catalog, log, leases, processes, live status, stop requests, listeners and repositories."""

    home: Path
    catalog: Catalog
    session: Session
    log: SessionLog
    leases: Leases
    crew: Crew
    live: LiveReporter
    stop: StopWatch
    events: SessionEvents
    storages: Storages
    gateways: Gateways


class Warnings:
    """Collects a session's warnings, each once, in the order of their first appearance."""

    def __init__(self, log: SessionLog) -> None:
        self._log = log
        self._seen: dict[str, None] = {}

    def add(self, text: str, *, machine: str = "", disk: str = "") -> None:
        prefix = "/".join(part for part in (machine, disk) if part)
        line = f"{prefix}: {text}" if prefix else text
        if line not in self._seen:
            self._seen[line] = None
            self._log.warning(text, machine=machine, disk=disk)

    def all(self) -> tuple[str, ...]:
        return tuple(self._seen)


async def pause(seconds: float, stop: StopWatch) -> None:
    """Sleep, but wake when the session is asked to stop."""
    try:
        async with asyncio.timeout(seconds):
            await stop.requested.wait()
    except TimeoutError:
        return
