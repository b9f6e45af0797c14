"""The catalog is locked for longer than anybody waits for it: leases are renewed and requests are seen afterwards."""

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from vbrcore.api.client import Client
from vbrcore.api.home import Home
from vbrcore.balancer.demand import CLASS_REGULAR, Demand, Unit
from vbrcore.catalog import database
from vbrcore.catalog.catalog import CATALOG_NAME, Catalog
from vbrcore.catalog.processes import process_started
from vbrcore.manager import leases as leases_module
from vbrcore.manager.leases import Leases
from vbrcore.manager.live import LiveReporter
from vbrcore.manager.log import SessionLog
from vbrcore.manager.stop import StopWatch
from vbrcore.model.errors import CatalogUnavailable
from vbrcore.model.session import Session

SESSION_ID = "session-1"
BUSY_S = 0.2  # instead of half a minute
RENEWAL_S = 0.05

# Nobody else can write. Readers of a write-ahead log go on.
WRITERS = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN EXCLUSIVE")
print("held", flush=True)
sys.stdin.read()
connection.execute("ROLLBACK")
"""
# Nobody else can read either: the bytes of the write-ahead log's index that each reader locks one of.
READERS = """
import fcntl, sys
with open(sys.argv[1] + "-shm", "r+b") as index:
    fcntl.lockf(index, fcntl.LOCK_EX, 5, 123)
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def locked(catalog: Path, program: str) -> Iterator[None]:
    """Have another process lock the catalog, by SQLite's own means, while the context lasts."""
    command = [sys.executable, "-c", program, str(catalog)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        if holder.stdin is None or holder.stdout is None:
            pytest.fail("no pipes")
        assert holder.stdout.readline() == b"held\n"
        yield
        holder.stdin.close()
        assert holder.wait() == 0


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Give a home whose catalog has a session of this process with a lease."""
    monkeypatch.setattr(database, "BUSY_TIMEOUT_S", BUSY_S)
    monkeypatch.setattr(leases_module, "LEASE_RENEWAL_S", RENEWAL_S)
    catalog = Catalog.open(tmp_path)
    catalog.submit_session(Session(SESSION_ID, "job-1", "nightly", "backup", "starting", "none", True, time.time()))
    catalog.begin_session(SESSION_ID, os.getpid(), process_started(os.getpid()) or 0.0)
    yield tmp_path
    catalog.close()


@pytest.fixture
def catalog(home: Path) -> Iterator[Catalog]:
    """Give the manager's own connection."""
    opened = Catalog.open(home)
    yield opened
    opened.close()


@pytest.fixture
def log(tmp_path: Path) -> Iterator[SessionLog]:
    with SessionLog(tmp_path / "log" / "session.jsonl", job_id="job-1", session_id=SESSION_ID) as opened:
        yield opened


def told(log: SessionLog, text: str) -> int:
    return log.path.read_text().count(text)


async def until(condition: Callable[[], bool], what: str) -> None:
    give_up = time.monotonic() + 60
    while not condition():
        if time.monotonic() > give_up:
            pytest.fail(f"waited in vain for: {what}")
        await asyncio.sleep(0.01)


def run(story: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(story())


def test_leases_outlast_a_locked_catalog(home: Path, catalog: Catalog, log: SessionLog) -> None:
    def left_s() -> float:
        beside = Catalog.open(home)
        try:
            return beside.holders()[SESSION_ID]
        finally:
            beside.close()

    async def story() -> None:
        stop = StopWatch(catalog, SESSION_ID)
        leases = Leases(catalog, SESSION_ID, log, stop, lambda: None)
        leases.start()
        try:
            with locked(home / CATALOG_NAME, WRITERS):
                await until(lambda: told(log, "leases not renewed") >= 2, "two renewals that failed")
                held_s = left_s()
                with pytest.raises(CatalogUnavailable):
                    await asyncio.to_thread(catalog.release, SESSION_ID, "a write")
            await until(lambda: left_s() > held_s, "a renewal after the lock")
            assert not leases.lost.is_set()
            unit = Unit("host:server")
            demand = Demand("demand-1", SESSION_ID, "task", "scope", time.time(), CLASS_REGULAR, True, (unit,))
            waiting = asyncio.create_task(leases.acquire(demand))
            await until(lambda: bool(catalog.waiting(SESSION_ID)), "a request after the lock")
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
        finally:
            leases.close()
        assert catalog.holders() == {}

    run(story)


def test_leases_that_were_given_away_meanwhile_are_lost(home: Path, catalog: Catalog, log: SessionLog) -> None:
    async def story() -> None:
        leases = Leases(catalog, SESSION_ID, log, StopWatch(catalog, SESSION_ID), lambda: None)
        leases.start()
        try:
            with locked(home / CATALOG_NAME, WRITERS):
                await until(lambda: told(log, "leases not renewed") >= 1, "a renewal that failed")
            beside = Catalog.open(home)
            beside.release_session(SESSION_ID)
            beside.close()
            await asyncio.wait_for(leases.lost.wait(), 60)
        finally:
            leases.close()

    run(story)


@pytest.mark.parametrize("program", [WRITERS, READERS], ids=["no writes", "no reads"])
def test_a_request_to_stop_is_seen_after_the_catalog_was_locked(home: Path, catalog: Catalog, program: str) -> None:
    async def story() -> None:
        stop = StopWatch(catalog, SESSION_ID)
        stop.start()
        try:
            beside = Catalog.open(home)
            try:
                with locked(home / CATALOG_NAME, program):
                    # The watch asks on this thread, so nothing here goes on before it has waited in vain as well.
                    asked = (
                        beside.data_version if program == READERS else lambda: beside.request_stop(SESSION_ID, now=True)
                    )
                    with pytest.raises(CatalogUnavailable):
                        await asyncio.to_thread(asked)
                assert not stop.requested.is_set()
                beside.request_stop(SESSION_ID, now=True)
            finally:
                beside.close()
            await asyncio.wait_for(stop.now.wait(), 60)
            assert stop.requested.is_set()
        finally:
            await stop.close()

    run(story)


def test_nobody_has_to_be_told_what_runs(home: Path) -> None:
    async def story() -> None:
        live = LiveReporter(Client(Home(home), start=False), SESSION_ID)
        live.poke()
        await live.close()

    run(story)
