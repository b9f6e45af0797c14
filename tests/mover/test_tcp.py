"""Movers that meet over TLS on loopback, in both directions: the data arrives, and nothing listens afterwards."""

import random
import socket
from pathlib import Path
from typing import Any

import pytest

from vbrcore.model.errors import NoDataAddress, NoFreePort
from vbrcore.mover import messages as m
from vbrcore.mover.tcp import listen_on

MIB = 1024 * 1024
WAYS = ("target_listens", "source_listens")


def noise_disk(path: Path, size_bytes: int) -> bytes:
    data = random.Random(5).randbytes(size_bytes)  # noqa: S311 - the same in each run
    path.write_bytes(data)
    return data


def refused(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


@pytest.mark.parametrize("way", WAYS)
def test_a_disk_travels_over_tls_and_comes_back(on_line: Any, tmp_path: Path, way: str) -> None:
    data = noise_disk(tmp_path / "disk", 9 * MIB + 4096)
    (tmp_path / "config").write_bytes(b"<domain/>")

    async def story(line: Any) -> None:
        await line.start_target()
        done = await line.back_up(path=tmp_path / "disk", way=way)
        assert done.totals.transferred_bytes > 9 * MIB
        configuration = await line.back_up(
            path=tmp_path / "config", task_id="configuration", kind="configuration", way=way
        )
        point = (await line.commit(done, configuration=configuration.root)).point
        again = await line.back_up(path=tmp_path / "disk", way=way, attempt=2, previous_root=done.root)
        assert again.totals.transferred_bytes < MIB
        await line.seal()
        await line.restore(point, tmp_path / "out")
        assert (tmp_path / "out").read_bytes() == data

    on_line(story)


def test_a_port_is_listened_on_only_while_a_source_is_expected(on_line: Any, tmp_path: Path) -> None:
    noise_disk(tmp_path / "disk", MIB)

    async def story(line: Any) -> None:
        await line.start_target()
        endpoint = await line.expect("first", 1, "target_listens")
        port = endpoint.ports[0]
        assert not refused(port)
        await line.target.send(m.VoidTask("first"))
        again = await line.expect("other", 1, "target_listens")  # answered after what was sent before
        assert refused(port) or again.ports[0] == port
        done = await line.back_up(path=tmp_path / "disk", task_id="other", attempt=2, way="target_listens")
        assert done.size_bytes == MIB
        assert refused(again.ports[0])

    on_line(story)


@pytest.mark.parametrize("way", WAYS)
def test_a_range_without_a_free_port_is_said_and_hurts_no_other_task(on_line: Any, tmp_path: Path, way: str) -> None:
    noise_disk(tmp_path / "disk", MIB)
    taken = listen_on("127.0.0.1", (46290, 46299))
    port = taken.getsockname()[1]

    async def story(line: Any) -> None:
        await line.start_target()
        with pytest.raises(NoFreePort, match="no port from"):
            await line.back_up(path=tmp_path / "disk", way=way, ports=(port, port))
        done = await line.back_up(path=tmp_path / "disk", way=way, attempt=2)
        assert (await line.commit(done)).point.disks[0].size_bytes == MIB

    with taken:
        on_line(story)


def test_an_address_that_is_not_ours_is_not_listened_on() -> None:
    with pytest.raises(NoDataAddress, match="is not an address of this server"):
        listen_on("192.0.2.1", (46200, 46299))
