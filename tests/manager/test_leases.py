"""Leases of a session that was asked to stop."""

import asyncio
import os
import time
from pathlib import Path

import pytest

from vbrcore.balancer.decide import Capacities, decide
from vbrcore.balancer.demand import CLASS_REGULAR, RANK_OPEN_MACHINE, Demand, Unit
from vbrcore.catalog.catalog import Catalog
from vbrcore.catalog.processes import process_started
from vbrcore.manager.leases import Leases
from vbrcore.manager.log import SessionLog
from vbrcore.manager.stop import StopWatch
from vbrcore.model.errors import SessionStopped
from vbrcore.model.session import Session


def test_a_machine_that_was_started_gets_its_further_disks_and_no_other_starts(tmp_path: Path) -> None:
    catalog = Catalog.open(tmp_path)
    catalog.submit_session(Session("s", "j", "nightly", "backup", "starting", "none", True, time.time()))
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
