"""What goes wrong in the middle: who is told what, and what is left."""

import asyncio
import os
import random
import signal
import socket
from pathlib import Path
from typing import Any

import pytest

from vbrcore.model.errors import (
    BlocksMissing,
    DataCorrupt,
    MoverLost,
    SessionStopped,
    SinkWriteFailed,
    SourceReadFailed,
    error_from,
)
from vbrcore.model.place import Place
from vbrcore.mover import messages as m
from vbrcore.plugins.api import SinkSpec

MIB = 1024 * 1024


def noise(seed: int, size_bytes: int) -> bytes:
    return random.Random(seed).randbytes(size_bytes)  # noqa: S311 - the same in each run


def noise_disk(path: Path, size_bytes: int, seed: int = 1) -> bytes:
    data = noise(seed, size_bytes)
    path.write_bytes(data)
    return data


def backup_files(line: Any) -> list[Path]:
    return sorted((line.repository / "job").glob("*.vbf"))


def spoil(path: Path, content: bytes) -> None:
    """Flip a bit in the middle of the extent that holds `content`, uncompressed."""
    data = path.read_bytes()
    at = data.index(content[:64]) + len(content) // 2
    with path.open("r+b") as file:
        file.seek(at)
        file.write(bytes((data[at] ^ 1,)))


def test_a_source_that_dies_is_replaced(on_line: Any, tmp_path: Path, tell: Any) -> None:
    data = noise_disk(tmp_path / "disk", 40 * MIB)

    async def story(line: Any) -> None:
        await line.start_target()
        slow = await line.source(path=tmp_path / "disk", settings={"pause_ms": 50})
        await tell(slow, m.Progress)
        os.kill(slow.pid, signal.SIGKILL)
        with pytest.raises(MoverLost):
            await tell(slow, m.DiskDone)
        done = await line.back_up(tmp_path / "disk", attempt=2)
        assert done.totals.transferred_bytes < 40 * MIB  # what the first one sent is there
        committed = await line.commit(done)
        assert committed.stored_bytes < 41 * MIB
        await line.restore(committed.point, tmp_path / "out")
        assert (tmp_path / "out").read_bytes() == data

    on_line(story)


def test_a_target_that_dies_fails_its_sources_and_its_points_stand(on_line: Any, tmp_path: Path, tell: Any) -> None:
    data = noise_disk(tmp_path / "a", 3 * MIB)
    noise_disk(tmp_path / "b", 40 * MIB, 2)

    async def story(line: Any) -> None:
        target = await line.start_target()
        point = (await line.commit(await line.back_up(tmp_path / "a"))).point
        slow = await line.source(path=tmp_path / "b", attempt=2, settings={"pause_ms": 50})
        await tell(slow, m.Progress)
        os.kill(target.pid, signal.SIGKILL)
        with pytest.raises(MoverLost):
            await tell(slow, m.DiskDone)
        await line.start_target()
        assert [p.point_id for p in line.points] == [point.point_id]
        await line.restore(point, tmp_path / "out")
        assert (tmp_path / "out").read_bytes() == data
        again = (await line.commit(await line.back_up(tmp_path / "b"))).point
        await line.seal()
        assert (await line.restore(again, None, deep=True)).damaged == ()

    on_line(story)


def test_a_read_error_ends_the_task_with_its_reason(on_line: Any, tmp_path: Path) -> None:
    noise_disk(tmp_path / "disk", 20 * MIB)

    async def story(line: Any) -> None:
        await line.start_target()
        with pytest.raises(SourceReadFailed, match="cannot read at"):
            await line.back_up(tmp_path / "disk", settings={"bad_offset": 7 * MIB})
        done = await line.back_up(tmp_path / "disk", attempt=2)
        assert (await line.restore((await line.commit(done)).point, None, deep=True)).damaged == ()

    on_line(story)


def test_stop_ends_a_source_at_the_next_block(on_line: Any, tmp_path: Path, tell: Any) -> None:
    noise_disk(tmp_path / "disk", 60 * MIB)

    async def story(line: Any) -> None:
        await line.start_target()
        slow = await line.source(path=tmp_path / "disk", settings={"pause_ms": 50})
        progress = await tell(slow, m.Progress)
        assert 0 < progress.done_bytes < progress.total_bytes == 60 * MIB
        assert set(progress.busy) == {"source", "compress", "network", "target"}
        await slow.send(m.Stop())
        with pytest.raises(SessionStopped):
            await tell(slow, m.DiskDone)
        with pytest.raises(MoverLost, match="ended with code 130"):
            await slow.receive()
        assert line.target is not None
        await line.target.send(m.Stop())
        await tell(line.target, m.Ended)

    on_line(story)


def test_a_point_with_missing_blocks_is_refused(on_line: Any, tmp_path: Path, tell: Any) -> None:
    noise_disk(tmp_path / "disk", MIB)

    async def story(line: Any) -> None:
        target = await line.start_target()
        done = await line.back_up(tmp_path / "disk")
        bad = m.DiskDone("t", bytes(range(32)), MIB, done.totals, compared=False)
        await target.send(m.CommitPoint(line.point(done, bad)))
        refused = await tell(target, m.PointRefused)
        assert isinstance(error_from(refused.error), BlocksMissing)
        point = (await line.commit(done)).point
        await target.send(m.ForgetPoints((point.point_id,)))
        assert (await tell(target, m.Forgotten)).point_ids == (point.point_id,)
        await line.seal()
        await line.start_target()
        assert line.points == ()

    on_line(story)


def test_reserve_stops_a_session(on_line: Any) -> None:
    from vbrcore.model.errors import RepositoryFull  # noqa: PLC0415

    async def story(line: Any) -> None:
        with pytest.raises(RepositoryFull):
            await line.start_target(reserve_bytes=2**60)

    on_line(story)


def test_damage_is_found_named_and_never_restored_quietly(on_line: Any, tmp_path: Path) -> None:
    data = noise_disk(tmp_path / "disk", 5 * MIB + 99)

    async def story(line: Any) -> None:
        await line.start_target()
        point = (await line.commit(await line.back_up(tmp_path / "disk"))).point
        await line.seal()
        spoil(backup_files(line)[0], data[2 * MIB : 3 * MIB])
        spoil(backup_files(line)[0], data[5 * MIB :])
        for deep in (False, True):
            checked = await line.restore(point, None, deep=deep)
            assert checked.damaged == ((2 * MIB, MIB), (5 * MIB, 99))
        with pytest.raises(DataCorrupt, match="offset"):
            await line.restore(point, tmp_path / "out")

    on_line(story)


def test_a_damaged_map_is_a_damaged_range(on_line: Any, tmp_path: Path) -> None:
    noise_disk(tmp_path / "disk", 2 * MIB)

    async def story(line: Any) -> None:
        await line.start_target()
        point = (await line.commit(await line.back_up(tmp_path / "disk"))).point
        await line.seal()
        data = (tmp_path / "disk").read_bytes()
        from vbrcore.backupfile.codec import digest  # noqa: PLC0415

        page = digest(data[:MIB]) + digest(data[MIB:]) + bytes(8192 - 64)
        assert digest(page) == point.disks[0].root
        spoil(backup_files(line)[0], page)
        assert (await line.restore(point, None)).damaged == ((0, 2 * MIB),)
        with pytest.raises(DataCorrupt):
            await line.restore(point, tmp_path / "out")

    on_line(story)


@pytest.mark.parametrize("since", ["", "one"])
def test_damaged_blocks_are_read_and_sent_again(on_line: Any, tmp_path: Path, since: str) -> None:
    """What the source does with damaged digests; that the target takes them is shown by the chain's tests."""
    data = noise_disk(tmp_path / "disk", 400 * MIB // 100)
    from vbrcore.backupfile.codec import digest  # noqa: PLC0415

    async def story(line: Any) -> None:
        await line.start_target()
        full = await line.back_up(tmp_path / "disk")
        await line.commit(full)
        damaged = (digest(data[MIB : 2 * MIB]), full.root)
        again = await line.back_up(
            tmp_path / "disk",
            previous_root=full.root,
            previous_size_bytes=full.size_bytes,
            since=since,
            damaged=damaged,
            settings={"changes": []},
        )
        assert again.root == full.root
        assert again.totals.read_bytes == len(data)  # its only map page is damaged: nothing is known any more

    on_line(story)


def test_restore_to_a_stream(on_line: Any, tmp_path: Path, tell: Any) -> None:
    disk = tmp_path / "disk"
    with disk.open("wb") as file:
        file.truncate(90 * MIB + 3)
        file.seek(7 * MIB + 5)
        file.write(noise(1, 20 * MIB))
        file.seek(80 * MIB)
        file.write(b"text " * 100_000)
    path = tmp_path / "stream"

    async def story(line: Any) -> None:
        await line.start_target()
        point = (await line.commit(await line.back_up(disk))).point
        got = asyncio.get_running_loop().create_future()

        async def receive(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            line_ = await reader.readline()
            got.set_result((line_, await reader.read()))
            writer.close()

        server = await asyncio.start_unix_server(receive, path)
        sink = SinkSpec("", "stream", point.disks[0].size_bytes, {"socket": str(path)}, {"token": "secret"})
        await line.restore(point, sink)
        token, data = await got
        assert token == b"secret\n"
        assert data == disk.read_bytes()
        server.close()
        path.unlink(missing_ok=True)

        with socket.socket(socket.AF_UNIX) as listener:  # and one that goes away in the middle
            listener.bind(str(path))
            listener.listen()
            mover = await line.client.start_mover("restore", "job", "s", "t", "d")
            where = (Place(str(line.repository)), line.repository_id, "job", point.point_id)
            await mover.send(m.RestoreWork("t", *where, "disk0", sink))
            connection, _ = await asyncio.to_thread(listener.accept)
            connection.recv(100_000)
            connection.close()
            with pytest.raises(SinkWriteFailed):
                await tell(mover, m.RestoreDone)

    on_line(story)
