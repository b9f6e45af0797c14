"""The limit of a pair of sites, shared by tasks of two sessions: a mover is told what it may send while it runs."""

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from vbrcore.catalog.catalog import Catalog
from vbrcore.manager import share
from vbrcore.manager.log import SessionLog
from vbrcore.manager.share import Share
from vbrcore.model.inventory import Server
from vbrcore.model.network import rule_of
from vbrcore.model.routes import Route, data_route
from vbrcore.transport.client import TransportClient

CROSSING = data_route(
    Server("a", "a", ("proxy",), 2, 2, "london", address="10.0.0.1"),
    Server("b", "b", ("repository",), 0, 2, "paris", address="10.0.0.2"),
)
RULE = rule_of("paris", "london", 1_000_000)


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    made = Catalog.open(tmp_path)
    made.set_network_rule(RULE)
    yield made
    made.close()


@pytest.fixture
def log(tmp_path: Path) -> SessionLog:
    return SessionLog(tmp_path / "log" / "session.jsonl", job_id="j", session_id="s")


async def until(reached: Callable[[], bool]) -> None:
    while not reached():  # noqa: ASYNC110 - the movers are told, not the test
        await asyncio.sleep(0.01)


def test_what_stays_on_one_server_or_has_no_rule_is_not_limited(catalog: Catalog, log: SessionLog) -> None:
    with Share(catalog, log, Route("socket"), "task") as mine:
        assert mine.rate_bytes_s is None
    catalog.remove_network_rule(RULE)
    with Share(catalog, log, CROSSING, "task") as mine:
        assert mine.rate_bytes_s is None


def test_tasks_of_two_sessions_end_up_with_half_each_and_the_last_with_all(
    catalog: Catalog, log: SessionLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(share, "_PERIOD_S", 0.01)

    async def story() -> None:
        async with TransportClient() as client:
            await client.start_local("job", "session")
            first, second = [await client.start_mover("source", "job", "session", f"t{n}", "d") for n in range(2)]
            with Share(catalog, log, CROSSING, "t0") as one:
                assert one.rate_bytes_s == 1_000_000
                async with one.kept(first):
                    with Share(catalog, log, CROSSING, "t1") as two:
                        assert two.rate_bytes_s == 0  # the first one sends all that may be sent
                        async with two.kept(second):
                            await until(lambda: (one.told_bytes_s, two.told_bytes_s) == (500_000, 500_000))
                    await until(lambda: one.told_bytes_s == 1_000_000)
            with Share(catalog, log, CROSSING, "t2") as last:
                assert last.rate_bytes_s == 1_000_000  # nothing is left behind

    asyncio.run(story())
