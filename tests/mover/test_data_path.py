"""Full, increment and restore over real processes: transport, target, sources, restore movers."""

import json
import os
import random
from pathlib import Path
from typing import Any

import pytest

from vbrcore.model.errors import SourceReadFailed
from vbrcore.model.place import Place

MIB = 1024 * 1024


def noise(seed: int, size_bytes: int) -> bytes:
    return random.Random(seed).randbytes(size_bytes)  # noqa: S311 - the same in each run


def write_disk(path: Path, size_bytes: int, pieces: dict[int, bytes]) -> bytes:
    with path.open("wb") as file:
        file.truncate(size_bytes)
        for offset, data in pieces.items():
            file.seek(offset)
            file.write(data)
    return path.read_bytes()


@pytest.mark.parametrize(
    ("block_size_bytes", "compression"), [(256 * 1024, "fast"), (MIB, "none"), (MIB, "optimal"), (4 * MIB, "high")]
)
def test_full_then_restore(on_line: Any, tmp_path: Path, block_size_bytes: int, compression: str) -> None:
    junk, text = noise(1, 3 * MIB), b"some text " * 400_000
    content = write_disk(tmp_path / "disk", 41 * MIB + 777, {5 * MIB + 100: junk, 20 * MIB: text, 41 * MIB + 5: b"end"})

    async def story(line: Any) -> None:
        line.block_size_bytes = block_size_bytes
        await line.start_target()
        done = await line.back_up(tmp_path / "disk", compression=compression)
        assert done.size_bytes == len(content)
        assert not done.compared
        point = (await line.commit(done)).point
        ended = await line.seal()
        assert 0 < done.totals.transferred_bytes <= ended.stored_bytes + 100_000
        await line.restore(point, tmp_path / "out")
        assert (tmp_path / "out").read_bytes() == content
        assert (await line.restore(point, None, deep=True)).damaged == ()

    on_line(story)


def test_increments_by_comparison_and_by_tracking(on_line: Any, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    junk = noise(2, 60 * MIB)
    write_disk(disk, 300 * MIB, {0: junk, 280 * MIB: junk[: 5 * MIB]})

    async def story(line: Any) -> None:
        await line.start_target()
        full = await line.back_up(disk)
        await line.commit(full, change_id="one")
        assert full.totals.read_bytes == 65 * MIB
        assert full.totals.transferred_bytes < 61 * MIB  # the end repeats the start

        with disk.open("r+b") as file:
            file.seek(10 * MIB + 5)
            file.write(b"changed")
        compared = await line.back_up(disk, previous_root=full.root, previous_size_bytes=300 * MIB)
        assert compared.compared
        assert compared.totals.read_bytes == 65 * MIB
        assert compared.totals.transferred_bytes < 1.1 * MIB

        with disk.open("r+b") as file:
            file.seek(290 * MIB)
            file.write(b"changed again")
        settings = {"changes": [f"{10 * MIB},512", f"{290 * MIB},13"], "log": str(tmp_path / "log")}
        tracked = await line.back_up(
            disk, previous_root=full.root, previous_size_bytes=300 * MIB, since="one", settings=settings
        )
        assert not tracked.compared
        assert tracked.warnings == ()
        assert tracked.totals.read_bytes == 2 * MIB
        assert tracked.totals.audit_bytes == 8 * MIB
        assert tracked.totals.transferred_bytes < 1.1 * MIB  # the first change was sent a moment ago
        reads = json.loads((tmp_path / "log").read_text())
        assert {9 * MIB, 11 * MIB} & set(reads)  # neighbours of changes
        point = (await line.commit(tracked)).point
        await line.restore(point, tmp_path / "out")
        assert (tmp_path / "out").read_bytes() == disk.read_bytes()

    on_line(story)


def test_audit_finds_a_tracker_that_lies(on_line: Any, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    write_disk(disk, 12 * MIB, {0: noise(3, 12 * MIB)})

    async def story(line: Any) -> None:
        await line.start_target()
        full = await line.back_up(disk)
        await line.commit(full)
        with disk.open("r+b") as file:
            file.seek(3 * MIB)
            file.write(b"this one is told")
            file.write(os.urandom(MIB))  # and what it does to the next block is not
        again = await line.back_up(
            disk,
            previous_root=full.root,
            previous_size_bytes=12 * MIB,
            since="one",
            settings={"changes": [f"{3 * MIB},16"]},
        )
        assert again.compared
        assert "unchanged" in again.warnings[0]
        point = (await line.commit(again)).point
        await line.restore(point, tmp_path / "out")
        assert (tmp_path / "out").read_bytes() == disk.read_bytes()

    on_line(story)


def test_lost_tracking_compares_and_says_so(on_line: Any, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    write_disk(disk, 4 * MIB, {0: noise(3, 4 * MIB)})

    async def story(line: Any) -> None:
        await line.start_target()
        full = await line.back_up(disk)
        await line.commit(full)
        settings = {"tracking_lost": True, "prints": True}
        again = await line.back_up(
            disk, previous_root=full.root, previous_size_bytes=4 * MIB, since="one", settings=settings
        )
        assert again.compared
        assert "the bitmap is gone" in again.warnings[0]
        assert again.root == full.root
        assert again.totals.transferred_bytes < 100_000

    on_line(story)


def test_resized_disk(on_line: Any, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    start = write_disk(disk, 5 * MIB + 1000, {0: noise(5, 5 * MIB + 1000)})

    async def story(line: Any) -> None:
        await line.start_target()
        known = await line.back_up(disk)
        await line.commit(known)
        for size_bytes in (300 * MIB + 5, 3 * MIB + 7):
            os.truncate(disk, size_bytes)
            changes = [f"{len(start)},{size_bytes - len(start)}"] if size_bytes > len(start) else []
            done = await line.back_up(
                disk,
                previous_root=known.root,
                previous_size_bytes=known.size_bytes,
                since="one",
                settings={"changes": changes},
            )
            point = (await line.commit(done)).point
            out = tmp_path / f"out{size_bytes}"
            await line.restore(point, out)
            assert out.read_bytes() == disk.read_bytes()
            known = done

    on_line(story)


@pytest.mark.parametrize("size_bytes", [0, 1, 4095, MIB, 2 * 1024**4 + 513])
def test_empty_and_huge_sparse_disks(on_line: Any, tmp_path: Path, size_bytes: int) -> None:
    disk = tmp_path / "disk"
    with disk.open("wb") as file:
        file.truncate(size_bytes)
        if size_bytes > 1024**4:
            file.seek(1024**4 + 12345)
            file.write(b"far out")

    async def story(line: Any) -> None:
        await line.start_target()
        done = await line.back_up(disk)
        assert done.totals.read_bytes <= 2 * MIB
        point = (await line.commit(done)).point
        await line.restore(point, tmp_path / "out")
        assert (tmp_path / "out").stat().st_size == size_bytes
        with (tmp_path / "out").open("rb") as file:
            if size_bytes > 1024**4:
                file.seek(1024**4 + 12345)
                assert file.read(7) == b"far out"
            else:
                assert not any(file.read())

    on_line(story)


def test_equal_disks_at_once_are_sent_once(on_line: Any, tmp_path: Path, tell: Any) -> None:
    import asyncio  # noqa: PLC0415

    from vbrcore.mover import messages as m  # noqa: PLC0415

    junk = noise(7, 64 * MIB)
    for name in ("a", "b", "c"):
        write_disk(tmp_path / name, 64 * MIB, {0: junk})

    async def story(line: Any) -> None:
        await line.start_target()
        sources = [await line.source(task_id=name, path=tmp_path / name) for name in ("a", "b", "c")]
        done = await asyncio.gather(*(tell(source, m.DiskDone) for source in sources))
        assert len({d.root for d in done}) == 1
        assert sum(d.totals.transferred_bytes for d in done) < 66 * MIB
        committed = await line.commit(*done)
        assert committed.stored_bytes < 66 * MIB
        await line.restore(committed.point, tmp_path / "out", 2)
        assert (tmp_path / "out").read_bytes() == junk

    on_line(story)


@pytest.mark.parametrize("size_bytes", [9, 2 * MIB, 64 * MIB])
def test_configuration(on_line: Any, tmp_path: Path, size_bytes: int) -> None:
    from vbrcore.mover import messages as m  # noqa: PLC0415

    data = os.urandom(size_bytes)
    (tmp_path / "configuration").write_bytes(data)
    write_disk(tmp_path / "disk", 1000, {})

    async def story(line: Any) -> None:
        await line.start_target()
        done = await line.back_up(tmp_path / "disk")
        kept = await line.back_up(tmp_path / "configuration", task_id="configuration", kind="configuration")
        point = (await line.commit(done, configuration=kept.root)).point
        await line.seal()
        mover = await line.client.start_mover("restore", "job", "s", "t", "")
        await mover.send(m.ReadConfiguration(Place(str(line.repository)), line.repository_id, "job", point.point_id))
        parts = []
        while isinstance(message := await mover.receive(), m.Configuration):
            parts.append(message.data)
        assert isinstance(message, m.Ended)
        assert b"".join(parts) == data

    on_line(story)


def test_a_configuration_that_is_too_large_is_refused_when_it_is_read(on_line: Any, tmp_path: Path) -> None:
    with (tmp_path / "configuration").open("wb") as file:
        file.truncate(64 * MIB + 1)

    async def story(line: Any) -> None:
        await line.start_target()
        with pytest.raises(SourceReadFailed, match="64 MiB are allowed"):
            await line.back_up(tmp_path / "configuration", task_id="configuration", kind="configuration")
        await line.seal()

    on_line(story)
