"""A backup copy beside a plain copy of the same bytes: the data path alone, as in `bench/movers.py`.

    .venv/bin/python bench/copying.py DISK --workdir DIR [--rounds N]

backs a raw disk up once, then in each round copies its chain into a new repository, copies its backup file with `cp`
(synced, as the chain is), and copies a second time what is there already. Prints one JSON object: bytes, seconds of
each round, and the ratio of the two.
"""

import argparse
import asyncio
import contextlib
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from bench.harness import paired_ratio
from bench.movers import Line, back_up, expect
from vbrcore.model.point import Point
from vbrcore.mover import messages as m


async def copy(source: Path, target: Path, point: Point) -> m.DiskDone:
    """Copy the point's disk into the target's chain, and commit it there."""
    async with Line(target) as line:
        await line.start_target()
        mover = await line.start_copy("copy", Line(source), point)
        done = await expect(mover, m.DiskDone)
        await line.commit([done])
        return done


def plain_copy(source: Path, target: Path) -> None:
    """Copy the backup files of a repository with `cp`, without clones, and sync them."""
    files = sorted(source.rglob("*.vbf"))
    target.mkdir()
    subprocess.run(["cp", "--reflink=never", *map(str, files), str(target)], check=True)
    subprocess.run(["sync", *map(str, sorted(target.iterdir()))], check=True)


def compare(workdir: Path, disk: Path, rounds: int) -> dict[str, Any]:
    """Return the seconds of each round, and what was moved."""
    directory = workdir / "copying"
    shutil.rmtree(directory, ignore_errors=True)
    source = directory / "source"
    source.mkdir(parents=True)
    figures: dict[str, dict[int, float]] = {"copy_s": {}, "cp_s": {}, "again_s": {}}
    moved = 0
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, directory)
        point = asyncio.run(back_up(source, disk))
        for number in range(rounds):
            target, plain = directory / f"target-{number}", directory / f"plain-{number}"
            target.mkdir()
            started = time.perf_counter()
            moved = asyncio.run(copy(source, target, point)).totals.transferred_bytes
            figures["copy_s"][number] = time.perf_counter() - started
            started = time.perf_counter()
            plain_copy(source / "repository", plain)
            figures["cp_s"][number] = time.perf_counter() - started
            started = time.perf_counter()
            asyncio.run(copy(source, target, point))
            figures["again_s"][number] = time.perf_counter() - started
            shutil.rmtree(target)
            shutil.rmtree(plain)
    seconds = {name: [round(value, 3) for value in values.values()] for name, values in figures.items()}
    return {"moved_bytes": moved, **seconds, "cp_to_copy": paired_ratio(figures["cp_s"], figures["copy_s"])}


def main(argv: Sequence[str] | None = None) -> int:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("disk", type=Path, help="a raw disk image")
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args(argv)
    print(msgspec.json.encode(compare(args.workdir, args.disk.resolve(), args.rounds)).decode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
