"""Leases of a session that was asked to stop, or waits for a server that is away."""

import asyncio
import os
import time
from pathlib import Path

import pytest

from vbrcore.balancer.decide import Capacities, Closed, decide
from vbrcore.balancer.demand import CLASS_REGULAR, RANK_OPEN_MACHINE, Choice, Demand, Unit
from vbrcore.catalog.catalog import Catalog
from vbrcore.catalog.processes import process_started
from vbrcore.manager.leases import Leases
from vbrcore.manager.log import SessionLog
from vbrcore.manager.stop import StopWatch
from vbrcore.model.errors import ServerUnreachable, SessionStopped
from vbrcore.model.session import Session


def test_a_machine_that_was_started_gets_its_further_disks_and_no_other_starts(tmp_path: Path) -> None:
    catalog = Catalog.open(tmp_path)
    catalog.add_session(Session("s", "j", "nightly", "backup", "starting", "none", True, time.time()))
    catalog.begin_session("s", os.getpid(), process_started(os.getpid()) or 0.0)

    def demand(name: str, rank: int) -> Demand:
        return Demand(name, "s", "task", name, time.time(), rank, True, (Unit("repository:r"),))

    async def ask() -> None:
        stop = StopWatch(catalog, "s")
        with SessionLog(tmp_path / "log", job_id="j", session_id="s") as log:
            leases = Leases(catalog, "s", log, stop, lambda: None)
            stop.requested.set()
            with pytest.raises(SessionStopped):
                await leases.acquire(demand("first", CLASS_REGULAR))
            further = asyncio.create_task(leases.acquire(demand("further", RANK_OPEN_MACHINE)))
            await asyncio.sleep(0)
            limits = Capacities({"repository:r": 1})
            service = Catalog.open(tmp_path)  # what a manager sees are the writes of others
            assert service.balance(lambda held, pending, now: decide(limits, held, pending, now)) == 1
            service.close()
            async with asyncio.timeout(20):
                assert (await further).demand_id == "further"

    asyncio.run(ask())
    catalog.close()


def test_a_machine_whose_snapshot_is_open_waits_for_no_server(tmp_path: Path) -> None:
    catalog = Catalog.open(tmp_path)
    catalog.add_session(Session("s", "j", "nightly", "backup", "starting", "none", True, time.time()))
    catalog.begin_session("s", os.getpid(), process_started(os.getpid()) or 0.0)
    machine = (Unit("machine:h/m"),)
    choices = (Choice("far", "", (Unit("proxy:far"),)),)
    first = Demand("disk", "s", "task", "disk", 1.0, CLASS_REGULAR, True, (), "machine", machine, (), expected_bytes=1)
    again = Demand("disk", "s", "task", "disk", 1.0, RANK_OPEN_MACHINE, True, choices=choices)
    limits = Capacities({"proxy:far": 1}, {"proxy:far": Closed("server_away", "far does not answer")})

    def balance() -> None:
        service = Catalog.open(tmp_path)
        service.balance(lambda held, pending, now: decide(limits, held, pending, now))
        service.close()

    async def ask() -> None:
        with SessionLog(tmp_path / "log", job_id="j", session_id="s") as log:
            leases = Leases(catalog, "s", log, StopWatch(catalog, "s"), balance)
            async with asyncio.timeout(20):
                assert (await leases.acquire(first)).demand_id == "disk"
                with pytest.raises(ServerUnreachable, match="far does not answer"):
                    await leases.acquire(again)
        assert catalog.usage() == {"machine:h/m": 1}  # the machine stays taken until its snapshot is released
        assert catalog.waiting() == ()

    asyncio.run(ask())
    catalog.close()
