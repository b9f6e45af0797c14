"""A line of real processes: a transport, a target mover, and source and restore movers over raw files."""

import asyncio
import ctypes
import os
import shutil
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import pytest

from vbrcore.chain.writer import ChainWriter
from vbrcore.manager.routes import endpoints
from vbrcore.model.errors import error_from
from vbrcore.model.place import Place
from vbrcore.model.point import Point, PointDisk
from vbrcore.model.routes import Route, Way
from vbrcore.mover import messages as m
from vbrcore.plugins.api import SinkSpec, SourceSpec
from vbrcore.storage.local import LocalStorage
from vbrcore.storage.repository import create_repository
from vbrcore.transport.client import MoverHandle, TransportClient

MIB = 1024 * 1024
Kind = TypeVar("Kind")
_CLONE_NEWNET = 0x40000000
PORTS = (46200, 46299)
HALF = Path(__file__).with_name("half.py")


class Line:
    """One repository, one transport, at most one target at a time."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.repository_id = str(uuid.uuid4())
        self.repository = root / "repository"
        create_repository(self.repository, self.repository_id)
        self.client = TransportClient()
        self.target: MoverHandle | None = None
        self.ready = m.Ready()
        self.points: tuple[Point, ...] = ()
        self.session_id = ""
        self.started = False
        self.block_size_bytes = MIB
        self.to_dial = m.ExpectTask("", 0, m.Endpoint("", b""))

    async def start_target(self, **changes: Any) -> MoverHandle:
        """Start a session's target mover; raises what it says instead of `Ready`."""
        if not self.started:
            await self.client.start_local("job", "session")
            self.started = True
        self.session_id = str(uuid.uuid4())
        work = m.TargetWork(
            place=Place(str(self.repository)),
            repository_id=self.repository_id,
            reserve_bytes=0,
            directory="job",
            job_id="00000000-0000-4000-8000-000000000001",
            job_name="nightly",
            session_id=self.session_id,
            created=time.time(),
            block_size_bytes=self.block_size_bytes,
            index_directory=str(self.root / "cache"),
        )
        self.target = await self.client.start_mover("target", "job", self.session_id, "", "")
        await self.target.send(msgspec.structs.replace(work, **changes))
        points: list[Point] = []
        self.ready = await expect(self.target, m.Ready, points)
        self.points = tuple(points)
        return self.target

    async def source(self, task_id: str = "task", attempt: int = 1, secret: bytes = b"", **changes: Any) -> MoverHandle:
        """Start a source mover and give it its work; `secret` other than the announced one if given.

        `way`: how it meets the target, and `ports` where; `endpoint` other than the one that fits if given.
        """
        way: Way = changes.pop("way", "socket")
        endpoint = await self.expect(task_id, attempt, way, changes.pop("ports", PORTS))
        endpoint = changes.pop("endpoint", msgspec.structs.replace(endpoint, secret=secret or endpoint.secret))
        source = await self.client.start_mover("source", "job", self.session_id, task_id, "disk")
        settings = changes.pop("settings", {})
        path = changes.pop("path")
        reader = "configuration" if changes.get("kind") == "configuration" else "file"
        spec = SourceSpec("testhalf", reader, {"path": str(path), **settings})
        work = m.SourceWork(task_id, "disk", spec, endpoint, block_size_bytes=self.block_size_bytes)
        await source.send(msgspec.structs.replace(work, **changes))
        if way == "source_listens":
            await self.dial((await expect(source, m.Listening)).port)
        return source

    async def expect(self, task_id: str, attempt: int, way: Way, ports: tuple[int, int] = PORTS) -> m.Endpoint:
        """Have the target expect a source; return what that source is told."""
        assert self.target is not None
        for_source = for_target = m.Endpoint(self.ready.path, os.urandom(32))
        if way != "socket":
            for_source, for_target = endpoints(Route(way, "127.0.0.1", ports), for_source.secret)
        self.to_dial = m.ExpectTask(task_id, attempt, for_target)
        if way != "source_listens":
            await self.target.send(self.to_dial)
        if way != "target_listens":
            return for_source
        listening = await expect(self.target, m.Listening)
        if listening.error is not None:
            raise error_from(listening.error)
        return msgspec.structs.replace(for_source, ports=(listening.port, listening.port))

    async def dial(self, port: int) -> None:
        """Have the target dial the source that was announced last."""
        assert self.target is not None
        endpoint = msgspec.structs.replace(self.to_dial.endpoint, ports=(port, port))
        await self.target.send(msgspec.structs.replace(self.to_dial, endpoint=endpoint))

    async def back_up(self, path: Path, **changes: Any) -> m.DiskDone:
        source = await self.source(path=path, **changes)
        done = await expect(source, m.DiskDone)
        await expect(source, m.Ended)
        return done

    async def commit(self, *disks: m.DiskDone, configuration: bytes = b"", change_id: str = "") -> m.PointCommitted:
        """Commit a point of these disks, named disk0, disk1, ..."""
        assert self.target is not None
        await self.target.send(m.CommitPoint(self.point(*disks, configuration=configuration, change_id=change_id)))
        return await expect(self.target, m.PointCommitted)

    def point(self, *disks: m.DiskDone, configuration: bytes = b"", change_id: str = "") -> Point:
        return Point(
            point_id=str(uuid.uuid4()),
            session_id=self.session_id,
            job_id="00000000-0000-4000-8000-000000000001",
            job_name="nightly",
            plugin="testhalf",
            machine_id="machine",
            machine="machine",
            kind="increment",
            created=time.time(),
            sequence=0,
            disks=tuple(
                PointDisk(f"disk{i}", f"disk{i}", done.size_bytes, done.root, change_id) for i, done in enumerate(disks)
            ),
            block_size_bytes=self.block_size_bytes,
            configuration=configuration,
        )

    async def seal(self) -> m.Ended:
        assert self.target is not None
        await self.target.send(m.Seal())
        return await expect(self.target, m.Ended)

    async def restore(
        self, point: Point, sink: SinkSpec | Path | None, disk: int = 0, *, deep: bool = False
    ) -> m.RestoreDone:
        mover = await self.client.start_mover("restore", "job", "restore", "restore", f"disk{disk}")
        if isinstance(sink, Path):
            sink = SinkSpec("testhalf", "file", point.disks[disk].size_bytes, {"path": str(sink)})
        where = (Place(str(self.repository)), self.repository_id, "job", point.point_id)
        await mover.send(m.RestoreWork("restore", *where, f"disk{disk}", sink, deep))
        done = await expect(mover, m.RestoreDone)
        await expect(mover, m.Ended)
        return done


async def expect(handle: MoverHandle, kind: type[Kind], points: list[Point] | None = None) -> Kind:
    """Return the next message of this kind; raise the error of a mover that failed. `points` of a chain are added."""
    while True:
        message = await handle.receive()
        if isinstance(message, kind):
            return message
        if isinstance(message, m.Failed):
            raise error_from(message.error)
        if isinstance(message, m.ChainPoints) and points is not None:
            points += message.points
            continue
        assert isinstance(message, m.Progress | m.Log | m.Ready), message


@pytest.fixture
def half(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Install the test's mover half for the processes that are started from here."""
    site = tmp_path / "site"
    info = site / "testhalf-1.dist-info"
    info.mkdir(parents=True)
    shutil.copy(HALF, site / "vbr_testhalf.py")
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: testhalf\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[vbrcore.movers]\ntesthalf = vbr_testhalf\n")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(site), *filter(None, [os.environ.get("PYTHONPATH")])]))


@pytest.fixture
def on_line(tmp_path: Path, half: None) -> Callable[[Callable[[Line], Any]], Any]:
    """Return a function that runs one coroutine function with a line and ends all its processes."""

    del half  # it is in the environment

    async def run(story: Callable[[Line], Any]) -> Any:
        line = Line(tmp_path)
        async with line.client:
            return await asyncio.wait_for(story(line), 60)

    return lambda story: asyncio.run(run(story))


@pytest.fixture
def tell() -> Callable[..., Any]:
    """`await tell(handle, Kind)`: the next message of that kind."""
    return expect


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[ChainWriter]:
    (tmp_path / "repository").mkdir()
    made = ChainWriter.open(
        LocalStorage(tmp_path / "repository"),
        "job",
        job_id=str(uuid.uuid4()),
        session_id=str(uuid.uuid4()),
        job_name="nightly",
        created=1_700_000_000.0,
        block_size_bytes=1024 * 1024,
        index_directory=tmp_path / "cache",
    )
    yield made
    made.close()


@pytest.fixture
def own_network() -> Iterator[None]:
    """Put the test, and what it starts, into a network of its own that has loopback only; needs root."""
    if os.geteuid() != 0:
        pytest.skip("only root may make a network")
    libc = ctypes.CDLL(None, use_errno=True)
    with Path("/proc/thread-self/ns/net").open(encoding="ascii") as before:
        if libc.unshare(_CLONE_NEWNET):
            pytest.skip(f"making a network is not allowed here: {os.strerror(ctypes.get_errno())}")
        try:
            subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
            yield
        finally:
            libc.setns(before.fileno(), _CLONE_NEWNET)
