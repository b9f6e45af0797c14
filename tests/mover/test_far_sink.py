"""A restore whose sink is open in another mover, as on another server: over TLS on loopback, in both directions."""

import contextlib
import os
import random
import socket
import threading
from pathlib import Path
from typing import Any

import msgspec
import pytest

from vbrcore.manager.routes import endpoints
from vbrcore.model.errors import AlreadyExists, PermissionRefused, ProtocolError, VbrError
from vbrcore.model.place import Place
from vbrcore.model.point import Point
from vbrcore.model.routes import Route
from vbrcore.mover import messages as m
from vbrcore.plugins.api import SinkSpec
from vbrcore.restore.export import export_sink, stream_sink

MIB = 1024 * 1024
PORTS = (46200, 46299)
SIZE = 9 * MIB + 4096


@pytest.fixture
def disk(tmp_path: Path) -> bytes:
    """A disk with a hole in its middle."""
    data = random.Random(6).randbytes(4 * MIB) + bytes(3 * MIB) + random.Random(7).randbytes(2 * MIB + 4096)  # noqa: S311
    (tmp_path / "disk").write_bytes(data)
    return data


async def backed_up(line: Any, tmp_path: Path) -> Point:
    await line.start_target()
    point: Point = (await line.commit(await line.back_up(path=tmp_path / "disk"))).point
    await line.seal()
    return point


async def restored(
    line: Any, tell: Any, point: Point, spec: SinkSpec, way: str = "target_listens", **changes: Any
) -> None:
    """Restore disk 0 into a sink of another mover; raise what either of them says, the sink's words first."""
    for_source, for_sink = endpoints(Route(way, "127.0.0.1", PORTS), os.urandom(32))  # type: ignore[arg-type]
    sink = await line.client.start_mover("sink", "job", "restore", "restore", "disk0")
    restore = await line.client.start_mover("restore", "job", "restore", "restore", "disk0")
    where = (Place(str(line.repository)), line.repository_id, "job", point.point_id)
    for_source = msgspec.structs.replace(for_source, **changes)
    work = m.RestoreWork("restore", *where, "disk0", endpoint=for_source)
    try:
        if way == "target_listens":
            await sink.send(m.SinkWork("restore", spec, for_sink))
            port = (await tell(sink, m.Listening)).port
            endpoint = msgspec.structs.replace(for_source, ports=(port, port))
            await restore.send(msgspec.structs.replace(work, endpoint=endpoint))
        else:
            await restore.send(work)
            port = (await tell(restore, m.Listening)).port
            await sink.send(m.SinkWork("restore", spec, msgspec.structs.replace(for_sink, ports=(port, port))))
        with contextlib.suppress(VbrError):
            assert (await tell(restore, m.RestoreDone)).damaged == ()
        await tell(sink, m.Ended)
    finally:
        await sink.kill()
        await restore.kill()


@pytest.mark.parametrize("way", ["target_listens", "source_listens"])
def test_a_disk_is_written_where_its_sink_is(on_line: Any, tell: Any, tmp_path: Path, disk: bytes, way: str) -> None:
    async def story(line: Any) -> None:
        point = await backed_up(line, tmp_path)
        await restored(line, tell, point, export_sink(str(tmp_path / "out.raw"), "raw", SIZE, None), way)

    on_line(story)
    assert (tmp_path / "out.raw").read_bytes() == disk
    assert (tmp_path / "out.raw").stat().st_blocks * 512 < SIZE  # the hole is one again


def test_a_stream_comes_in_order(on_line: Any, tell: Any, tmp_path: Path, disk: bytes) -> None:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "stream"))
    listener.listen(1)
    arrived = bytearray()

    def take() -> None:
        with listener.accept()[0] as connection:
            while data := connection.recv(MIB):
                arrived.extend(data)

    reader = threading.Thread(target=take)
    reader.start()

    async def story(line: Any) -> None:
        point = await backed_up(line, tmp_path)
        await restored(line, tell, point, stream_sink(str(tmp_path / "stream"), "token", SIZE, None))

    on_line(story)
    reader.join()
    listener.close()
    assert bytes(arrived) == b"token\n" + disk


@pytest.mark.usefixtures("disk")
def test_what_the_sink_says_is_told_and_nothing_is_replaced(on_line: Any, tell: Any, tmp_path: Path) -> None:
    (tmp_path / "out.raw").write_bytes(b"somebody's")

    async def story(line: Any) -> None:
        point = await backed_up(line, tmp_path)
        with pytest.raises(AlreadyExists):
            await restored(line, tell, point, export_sink(str(tmp_path / "out.raw"), "raw", SIZE, None))

    on_line(story)
    assert (tmp_path / "out.raw").read_bytes() == b"somebody's"


@pytest.mark.usefixtures("disk")
@pytest.mark.parametrize(
    ("size_bytes", "changes"),
    [(SIZE, {"secret": bytes(32)}), (SIZE - MIB, {})],
    ids=["another secret", "a disk that is larger than its sink"],
)
def test_who_is_not_expected_writes_nothing(
    on_line: Any, tell: Any, tmp_path: Path, size_bytes: int, changes: Any
) -> None:
    async def story(line: Any) -> None:
        point = await backed_up(line, tmp_path)
        with pytest.raises((PermissionRefused, ProtocolError)):
            await restored(
                line, tell, point, export_sink(str(tmp_path / "out.raw"), "raw", size_bytes, None), **changes
            )

    on_line(story)
    assert not (tmp_path / "out.raw").exists()
