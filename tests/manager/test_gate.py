"""The end of a window, for what waits and for what runs."""

import asyncio
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from vbrcore.catalog.catalog import Catalog
from vbrcore.manager.gate import Gate
from vbrcore.manager.log import SessionLog
from vbrcore.manager.stop import StopWatch
from vbrcore.model.errors import MachineBusy, OutsideWindow
from vbrcore.model.job import Schedule, Window
from vbrcore.model.session import Session


def window_around_now(*, is_open: bool) -> Window:
    """Return a window of hours that is open, or is not, for some hours."""
    begin = datetime.now(UTC) + timedelta(hours=-6 if is_open else 6)
    return Window(f"{begin:%H:%M}", f"{begin + timedelta(hours=12 if is_open else 2):%H:%M}")


@pytest.fixture
def log(tmp_path: Path) -> Iterator[SessionLog]:
    with SessionLog(tmp_path / "log", job_id="j", session_id="s") as opened:
        yield opened


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    opened = Catalog.open(tmp_path)
    yield opened
    opened.close()


def made(catalog: Catalog, log: SessionLog, schedule: Schedule, *, manual: bool = False) -> tuple[Gate, StopWatch]:
    session = Session("s", "j", "nightly", "backup", "running", "none", manual=manual, created=time.time())
    stop = StopWatch(catalog, "s")
    gate = Gate(schedule, session, stop, log)
    gate.start()
    return gate, stop


def test_what_waits_when_the_window_ends_gives_up_and_gives_back(catalog: Catalog, log: SessionLog) -> None:
    given_back = []

    async def wait() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            given_back.append(True)

    async def end() -> None:
        gate, stop = made(catalog, log, Schedule(window=window_around_now(is_open=True)))
        gate.check()
        waiting = asyncio.create_task(gate.while_open(wait()))
        await asyncio.sleep(0)
        gate.closed.set()
        with pytest.raises(OutsideWindow, match="has ended"):
            await waiting
        assert not stop.requested.is_set()  # what was started is finished
        await gate.close()

    asyncio.run(end())
    assert given_back == [True]


def test_a_hard_window_ends_what_runs_and_says_why(catalog: Catalog, log: SessionLog) -> None:
    async def end() -> None:
        gate, stop = made(catalog, log, Schedule(window=window_around_now(is_open=False), hard_window=True))
        with pytest.raises(OutsideWindow):
            gate.check()
        assert stop.now.is_set()
        with pytest.raises(OutsideWindow):
            stop.check()
        await gate.close()

    asyncio.run(end())


def test_a_session_that_somebody_started_has_no_window(catalog: Catalog, log: SessionLog) -> None:
    async def go() -> int:
        gate, stop = made(catalog, log, Schedule(window=window_around_now(is_open=False)), manual=True)
        gate.check()
        assert not stop.requested.is_set()
        return await gate.while_open(asyncio.sleep(0, 5))

    assert asyncio.run(go()) == 5


def test_while_it_is_open_what_was_waited_for_is_returned_and_errors_are_raised(
    catalog: Catalog, log: SessionLog
) -> None:
    async def fail() -> None:
        raise MachineBusy("a migration")

    async def go() -> int:
        gate, _ = made(catalog, log, Schedule(window=window_around_now(is_open=True)))
        with pytest.raises(MachineBusy, match="migration"):
            await gate.while_open(fail())
        found = await gate.while_open(asyncio.sleep(0, 7))
        await gate.close()
        return found

    assert asyncio.run(go()) == 7
