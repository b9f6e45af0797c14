"""A service in a process of its own, and a session that holds what a test wants to be held."""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from vbrcore.api import operations as ops
from vbrcore.api import types as t
from vbrcore.api.client import Client
from vbrcore.api.servers import ServerAdd, ServerView
from vbrcore.balancer.decide import Capacities, decide
from vbrcore.balancer.demand import CLASS_REGULAR, Demand, Unit
from vbrcore.catalog.catalog import Catalog
from vbrcore.catalog.processes import process_started
from vbrcore.model.session import Session, Totals
from vbrcore.testing.sshd import Sshd

PATIENCE_S = 30.0


def wait_for(condition: Callable[[], bool], what: str, *, patience_s: float = PATIENCE_S) -> None:
    """Wait until something is so; a test that waits in vain fails and says for what."""
    give_up = time.monotonic() + patience_s
    while not condition():
        if time.monotonic() > give_up:
            pytest.fail(f"waited in vain for: {what}")
        time.sleep(0.02)


@pytest.fixture
def client(home: Path) -> Iterator[Client]:
    """Ask the service of `home`; the first question starts it."""
    with Client(home) as opened:
        yield opened


@pytest.fixture
def catalog(home: Path, client: Client) -> Iterator[Catalog]:
    """Look into the catalog beside the service."""
    client.call(ops.SERVICE_SHOW, t.Nothing())
    opened = Catalog.open(home)
    yield opened
    opened.close()


@pytest.fixture
def job(home: Path, client: Client) -> t.JobView:
    """A job over one small machine, its repository in `home`."""
    machine = home / "machines" / "m1"
    machine.mkdir(parents=True)
    (machine / "disk.raw").write_bytes(b"\1" * 3_000_000)
    settings = {"path": str(home / "machines")}
    client.call(ops.HYPERVISOR_ADD, t.HypervisorAdd("lab", "images", settings))
    client.call(ops.REPOSITORY_ADD, t.RepositoryAdd("main", str(home / "backup"), reserve_bytes=0))
    return client.call(ops.JOB_CREATE, t.JobCreate("nightly", "lab", "main", ("*",)))


class Holder:
    """A session of its own process that holds all of this machine's host budget until `end`."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(100)"])
        catalog.add_session(Session("holder", "", "holder", "verify", "starting", "none", True, time.time()))
        catalog.begin_session("holder", self._process.pid, process_started(self._process.pid) or 0.0)
        server = catalog.server_by_name("local")
        units = (Unit(f"host:{server.server_id}"),) * server.host_budget
        catalog.request_lease(Demand("hold", "holder", "task", "hold", 1.0, CLASS_REGULAR, True, units))
        limits = Capacities({f"host:{server.server_id}": server.host_budget})
        if catalog.granted("hold") is None:
            catalog.balance(lambda held, pending, now: decide(limits, held, pending, now))

    def end(self) -> None:
        self._catalog.release_session("holder")
        self._catalog.finish_session(
            "holder", result="success", ended=time.time(), totals=Totals(), warnings=(), error=None
        )
        self._process.kill()
        self._process.wait()


@pytest.fixture
def holder(catalog: Catalog) -> Iterator[Holder]:
    held = Holder(catalog)
    yield held
    held.end()


@pytest.fixture
def sshd(home: Path) -> Iterator[Sshd]:
    """A real sshd on loopback: what a managed server is reached by."""
    with Sshd(home / "sshd") as running:
        yield running


@pytest.fixture
def add_server(client: Client, sshd: Sshd) -> Callable[..., ServerView]:
    """`add_server(name, **settings)`: add this machine once more, over SSH; a proxy unless something else is said."""

    def add(name: str, **settings: object) -> ServerView:
        given = {"roles": ("proxy",), "slots": 2, "site": "", **settings}
        secret = sshd.secrets["identity"].reveal()
        request = ServerAdd(
            name, "127.0.0.1", sshd.user, sshd.host_key, port=sshd.port, login="identity", secret=secret
        )
        return client.call(ops.SERVER_ADD, msgspec.structs.replace(request, **given))

    return add
