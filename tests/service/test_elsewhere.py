"""Repositories of other places as the service sees them: never waited for, shut while away, there again afterwards."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from vbrcore.api.home import Home
from vbrcore.catalog.catalog import Catalog
from vbrcore.model.errors import NoGateway, RepositoryNotMounted, VbrError
from vbrcore.model.inventory import Credential, Repository, Server
from vbrcore.model.place import PASSWORD, Place
from vbrcore.secrets.secret import Secret
from vbrcore.service.balancing import capacities_of
from vbrcore.service.elsewhere import Elsewhere
from vbrcore.storage.repository import IDENTITY_NAME
from vbrcore.testing.smbd import Smbd, free_port

GIB = 1 << 30


@pytest.fixture
def catalog(home: Path, smbd: Smbd) -> Iterator[Catalog]:
    Home(home).prepare()
    opened = Catalog.open(home)
    place: Place = smbd.place("data")
    opened.add_server(Server("s1", "local", ("proxy", "repository"), proxy_slots=2, host_budget=2))
    opened.add_credential(Credential("c1", "nas", place.username), Secret(place.secrets[PASSWORD]))
    yield opened
    opened.close()


def share(name: str, port: int, reserve_bytes: int | None = 0) -> Repository:
    url = f"//127.0.0.1:{port}/data/{name}"
    return Repository(name, name, "", url, 2, reserve_bytes=reserve_bytes, credential_id="c1")


def test_what_was_seen_decides_and_nothing_waits(home: Path, catalog: Catalog, smbd: Smbd) -> None:
    good, full, gone = share("good", smbd.port), share("full", smbd.port, 1 << 60), share("gone", free_port())
    for one in (good, full, gone):
        catalog.add_repository(one)

    async def story() -> None:
        elsewhere = Elsewhere(Home(home), catalog)
        try:
            assert capacities_of(catalog, elsewhere.closed).closed == {}  # nobody has looked yet
            for one in (good, full):
                made = await asyncio.to_thread(elsewhere.create, one)
                assert made.storage_class in {"punch", "copy"}
                await made.close()
            for one in (good, full, gone):
                await asyncio.to_thread(elsewhere.seen, one)
            closed = capacities_of(catalog, elsewhere.closed).closed
            assert closed["repository:full"].to_writers
            assert {key: why.reason for key, why in closed.items()} == {
                "repository:full": "repository_below_reserve",
                "repository:gone": "no_gateway",
            }
            assert elsewhere.gateway(good) == "local"
        finally:
            await elsewhere.close()

    asyncio.run(story())


def test_a_share_that_was_away_is_opened_anew(home: Path, catalog: Catalog, smbd: Smbd, tmp_path: Path) -> None:
    repository = share("good", smbd.port)
    catalog.add_repository(repository)

    async def story() -> None:
        elsewhere = Elsewhere(Home(home), catalog)
        try:
            await (await asyncio.to_thread(elsewhere.create, repository)).close()
            first = await asyncio.to_thread(elsewhere.open, repository)
            assert await asyncio.to_thread(first.list, "") == (IDENTITY_NAME,)
            smbd.kill()
            with pytest.raises(VbrError) as away:
                await asyncio.to_thread(elsewhere.open, repository)
            assert isinstance(away.value, NoGateway)
            smbd.start()
            again = await asyncio.to_thread(elsewhere.open, repository)
            assert await asyncio.to_thread(again.list, "") == (IDENTITY_NAME,)
            (tmp_path / "data" / "good" / IDENTITY_NAME).rename(tmp_path / "identity")
            with pytest.raises(RepositoryNotMounted):
                await asyncio.to_thread(elsewhere.open, repository)
            assert list((tmp_path / "data" / "good").iterdir()) == []
        finally:
            await elsewhere.close()

    asyncio.run(story())
