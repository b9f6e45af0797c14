"""The data path alone: a transport, a target mover and source movers as a job manager drives them, nothing around them.

    .venv/bin/python bench/movers.py DISK --workdir DIR

backs a raw disk up (full, unchanged) and restores it, and prints one JSON object with the seconds of each.
"""

import argparse
import asyncio
import contextlib
import itertools
import os
import shutil
import sys
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Self, TypeVar

import msgspec

from bench.harness import MIB
from vbrcore.model.errors import error_from
from vbrcore.model.job import Compression
from vbrcore.model.place import Place
from vbrcore.model.point import Point, PointDisk
from vbrcore.mover import messages as m
from vbrcore.plugins.api import SinkSpec, SourceSpec
from vbrcore.storage.repository import create_repository
from vbrcore.transport.client import MoverHandle, TransportClient

_JOB_ID: Final = "00000000-0000-4000-8000-000000000001"
_DIRECTORY: Final = "bench"
Kind = TypeVar("Kind")


class Line:
    """One repository and one session in it. Use as an asynchronous context manager."""

    def __init__(self, directory: Path, *, compression: Compression = "fast") -> None:
        self.repository = directory / "repository"
        self.target: MoverHandle | None = None
        self._index = directory / "cache"
        self._compression = compression
        self._client = TransportClient()
        self._session_id = str(uuid.uuid4())
        self._identity = directory / "repository-id"
        self._ready = m.Ready()
        if not self._identity.exists():
            self._identity.write_text(str(uuid.uuid4()), encoding="ascii")
            create_repository(self.repository, self.repository_id)

    @property
    def repository_id(self) -> str:
        return self._identity.read_text(encoding="ascii")

    async def __aenter__(self) -> Self:
        await self._client.start_local(_JOB_ID, self._session_id)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.close()

    async def start_target(self) -> MoverHandle:
        """Start the one target mover. Raises what it says instead of `Ready`."""
        self.target = await self._client.start_mover("target", _JOB_ID, self._session_id, "", "")
        await self.target.send(
            m.TargetWork(
                place=Place(str(self.repository)),
                repository_id=self.repository_id,
                reserve_bytes=0,
                directory=_DIRECTORY,
                job_id=_JOB_ID,
                job_name="bench",
                session_id=self._session_id,
                created=time.time(),
                block_size_bytes=MIB,
                index_directory=str(self._index),
            )
        )
        self._ready = await expect(self.target, m.Ready)
        return self.target

    async def start_source(self, task_id: str, disk: Path, previous: PointDisk | None = None) -> MoverHandle:
        """Start a source mover on a raw disk."""
        endpoint = m.Endpoint(self._ready.path, os.urandom(32))
        await self._to_target(m.ExpectTask(task_id, 1, endpoint))
        source = await self._client.start_mover("source", _JOB_ID, self._session_id, task_id, disk.name)
        settings: dict[str, str | int | bool | list[str]] = {
            "path": str(disk),
            "format": "raw",
            "directory": str(disk.parent),
        }
        await source.send(
            m.SourceWork(
                task_id,
                "disk",
                SourceSpec("images", "image", settings),
                endpoint,
                previous_root=previous.root if previous else b"",
                previous_size_bytes=previous.size_bytes if previous else 0,
                compression=self._compression,
            )
        )
        return source

    async def start_copy(self, task_id: str, source: "Line", point: Point) -> MoverHandle:
        """Start a copying mover on the first disk of a point in another repository."""
        endpoint = m.Endpoint(self._ready.path, os.urandom(32))
        await self._to_target(m.ExpectTask(task_id, 1, endpoint))
        mover = await self._client.start_mover("copy", _JOB_ID, self._session_id, task_id, "disk")
        where = (Place(str(source.repository)), source.repository_id, _DIRECTORY, point.point_id)
        await mover.send(m.CopyWork(task_id, *where, endpoint, disk_number=0))
        return mover

    async def commit(self, done: Sequence[m.DiskDone]) -> Point:
        """Commit one point of these disks and seal the file."""
        names = [f"disk{i}" for i in range(len(done))]
        disks = tuple(
            PointDisk(name, name, one.size_bytes, one.root, "") for name, one in zip(names, done, strict=True)
        )
        point = Point(
            point_id=str(uuid.uuid4()),
            session_id=self._session_id,
            job_id=_JOB_ID,
            job_name="bench",
            plugin="images",
            machine_id="machine",
            machine="machine",
            kind="increment",
            created=time.time(),
            sequence=0,
            disks=disks,
            block_size_bytes=MIB,
            configuration=b"",
        )
        await self._to_target(m.CommitPoint(point))
        committed = await expect(self._target(), m.PointCommitted)
        await self._to_target(m.Seal())
        await expect(self._target(), m.Ended)
        return committed.point

    async def restore(self, point: Point, output: Path) -> None:
        """Restore the point's first disk to a new raw file."""
        mover = await self._client.start_mover("restore", _JOB_ID, self._session_id, "restore", output.name)
        sink = SinkSpec("images", "image", point.disks[0].size_bytes, {"path": str(output), "format": "raw"})
        where = (Place(str(self.repository)), self.repository_id, _DIRECTORY, point.point_id)
        await mover.send(m.RestoreWork("restore", *where, point.disks[0].disk_id, sink))
        await expect(mover, m.RestoreDone)
        await expect(mover, m.Ended)

    def _target(self) -> MoverHandle:
        if self.target is None:
            raise RuntimeError("start_target was not called")
        return self.target

    async def _to_target(self, message: m.ToMover) -> None:
        await self._target().send(message)


async def expect(handle: MoverHandle, kind: type[Kind]) -> Kind:
    """Return the next message of this kind, passing over what is said meanwhile. Raises the error of a failed mover."""
    while True:
        match await handle.receive():
            case m.Failed(error=error):
                raise error_from(error)
            case m.PointRefused(error=error):
                raise error_from(error)
            case message if isinstance(message, kind):
                return message
            case _:
                pass


async def back_up(directory: Path, disk: Path, previous: PointDisk | None = None) -> Point:
    """Back up one disk in a session of its own."""
    async with Line(directory) as line:
        await line.start_target()
        source = await line.start_source("task", disk, previous)
        done = await expect(source, m.DiskDone)
        return await line.commit([done])


async def compare(workdir: Path, disk: Path) -> dict[str, float]:
    """Return the seconds of a full, of an unchanged backup and of a restore."""
    directory = workdir / "movers"
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, directory)
        times = [time.perf_counter()]
        point = await back_up(directory, disk)
        times.append(time.perf_counter())
        point = await back_up(directory, disk, point.disks[0])
        times.append(time.perf_counter())
        async with Line(directory) as line:
            await line.restore(point, directory / "restored.raw")
        times.append(time.perf_counter())
    seconds = [round(after - before, 3) for before, after in itertools.pairwise(times)]
    return dict(zip(("full_s", "unchanged_s", "restore_s"), seconds, strict=True))


def main(argv: Sequence[str] | None = None) -> int:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("disk", type=Path, help="a raw disk image")
    parser.add_argument("--workdir", type=Path, required=True)
    args = parser.parse_args(argv)
    print(msgspec.json.encode(asyncio.run(compare(args.workdir, args.disk.resolve()))).decode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
