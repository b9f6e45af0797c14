"""A synthetic full beside `cp` of the same bytes, on XFS with reflink and on ext4. Needs root: it mounts images.

    .venv/bin/python bench/synthetic.py                              100,000 extents of 32 KiB, 5 rounds
    .venv/bin/python bench/synthetic.py --blocks 20000 --rounds 3 --file-system ext4 --json -

A disk is backed up, then changed at random places and backed up again several times, so that what the newest point
reaches lies scattered in all files. Each round makes a synthetic full (class clone on XFS, punch on ext4) and copies
the file that this made with `cp --reflink=always` (XFS) and with `cp --reflink=never`, each with a sync of the copy.
The order turns; ratios are taken within a round, above 1 where ours is faster. At the end all older files are deleted
and the disk is restored from the full alone: its SHA-256 must be that of the disk.
"""

import argparse
import contextlib
import hashlib
import json
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from bench.harness import MIB, paired_ratio, rotated, spread
from bench.process import run, sync
from vbrcore.backupfile.codec import CODEC_NONE, checksum, digest
from vbrcore.backupfile.maps import PageBuilder
from vbrcore.backupfile.rows import KIND_BLOCK, KIND_PAGE, Row
from vbrcore.chain.files import file_names
from vbrcore.chain.givenback import GivenBack
from vbrcore.chain.reader import ChainReader
from vbrcore.chain.writer import SEND, ChainWriter
from vbrcore.model.point import PointDisk
from vbrcore.storage.capabilities import StorageClass
from vbrcore.storage.local import LocalStorage
from vbrcore.testing import chain_kit as kit

FILE_SYSTEMS: Final[dict[str, tuple[StorageClass, list[str]]]] = {
    "xfs": ("clone", ["mkfs.xfs", "-q", "-m", "reflink=1"]),
    "ext4": ("punch", ["mkfs.ext4", "-q"]),
}
INCREMENTS: Final = 5
CHANGED: Final = 0.1
AIM: Final = 0.7  # of a plain cp, on ext4
_COPY: Final = "copy"


class Scattered:
    """A chain of one disk whose newest point is scattered over its files. `sha256` is that of the disk's blocks."""

    def __init__(self, storage: LocalStorage, index: Path, blocks: int, stored_bytes: int) -> None:
        self.storage = storage
        self.index = index
        self.blocks = blocks
        self._chance = random.Random(11)  # noqa: S311
        self._stored_bytes = stored_bytes
        self._digests = [b""] * blocks
        self._sums = [b""] * blocks
        self._back_up(range(blocks))
        for _ in range(INCREMENTS):
            self._back_up(sorted(self._chance.sample(range(blocks), int(blocks * CHANGED))))
        self.files = frozenset(file_names(storage, kit.DIRECTORY))

    def _back_up(self, changed: Sequence[int]) -> None:
        writer = kit.open_writer(self.storage, self.index)
        for block in changed:
            length = self._chance.randrange(self._stored_bytes // 2, self._stored_bytes * 3 // 2)
            data = self._chance.randbytes(length)
            self._sums[block] = hashlib.sha256(data).digest()
            self._digests[block] = _send(writer, data, KIND_BLOCK)
        size_bytes = kit.size_of(self.blocks)
        builder = PageBuilder(size_bytes, kit.BLOCK)
        pages = [page for name in self._digests for page in builder.add(name)]
        rest, root = builder.finish()
        for _, page in [*pages, *rest]:
            _send(writer, page, KIND_PAGE)
        writer.commit_point(kit.point_of(PointDisk("d0", "d0", size_bytes, root)))
        writer.seal()

    @property
    def sha256(self) -> str:
        return hashlib.sha256(b"".join(self._sums)).hexdigest()

    def synthetic_full(self, storage_class: StorageClass) -> tuple[GivenBack, float, float]:
        """Make one; return what was done, and the seconds and CPU seconds that it took."""
        writer = kit.open_writer(self.storage, self.index)
        started, cpu = time.perf_counter(), time.process_time()
        done = writer.synthetic_full(storage_class)
        taken_s, cpu_s = time.perf_counter() - started, time.process_time() - cpu
        writer.close()
        return done, taken_s, cpu_s

    def new_files(self) -> list[Path]:
        names = set(file_names(self.storage, kit.DIRECTORY)) - self.files
        return [self.storage.path_of(name) for name in names]

    def restored_sha256(self) -> str:
        """Restore the newest point block by block; return the SHA-256 as `sha256` makes it."""
        whole = hashlib.sha256()
        with ChainReader.open(self.storage, kit.DIRECTORY) as reader:
            point = reader.points[-1]
            for _, name in reader.leaves(point, point.disks[0]):
                whole.update(hashlib.sha256(reader.block(name)).digest())
        return whole.hexdigest()


def _send(writer: ChainWriter, data: bytes, kind: int) -> bytes:
    row = Row(digest(data), len(data), len(data), CODEC_NONE, kind, checksum(data))
    if writer.lookup([row.digest], 1)[0] == SEND:
        writer.append(row, data, 1)
    return row.digest


@contextlib.contextmanager
def mounted(workdir: Path, name: str, size_bytes: int) -> Iterator[Path]:
    """Give a file system of its own, in an image. Raises `CommandFailed`."""
    image, path = workdir / f"{name}.image", workdir / name
    path.mkdir()
    with image.open("wb") as file:
        file.truncate(size_bytes)
    run([*FILE_SYSTEMS[name][1], str(image)])
    run(["mount", "-o", "loop", str(image), str(path)])
    try:
        yield path
    finally:
        run(["umount", str(path)])
        image.unlink()
        path.rmdir()


def compare(workdir: Path, name: str, blocks: int, stored_bytes: int, rounds: int) -> dict[str, Any]:
    """Return the figures of one file system. Raises `ValueError` where the full alone does not restore the disk."""
    storage_class = FILE_SYSTEMS[name][0]
    with mounted(workdir, name, 5 * blocks * stored_bytes + 400 * MIB) as path:
        chain = Scattered(LocalStorage(path), workdir / f"{name}-index", blocks, stored_bytes)
        done, *_ = chain.synthetic_full(storage_class)
        moved = {"moved_bytes": done.moved_bytes, "clone_calls": done.clone_calls}
        full_bytes = sum(file.stat().st_size for file in chain.new_files())
        rival = path / _COPY
        ours_cpu_s: list[float] = []

        def ours() -> float:
            for file in chain.new_files():
                file.unlink()
            sync(path)
            _, taken_s, cpu_s = chain.synthetic_full(storage_class)
            ours_cpu_s.append(cpu_s)
            return taken_s

        def copy(how: str) -> float:
            sync(path)
            (source,) = chain.new_files()
            started = time.perf_counter()
            run(["cp", f"--reflink={how}", str(source), str(rival)])
            run(["sync", str(rival)])
            taken_s = time.perf_counter() - started
            rival.unlink()
            return taken_s

        ways: dict[str, Callable[[], float]] = {"synthetic": ours, "cp": lambda: copy("never")}
        if storage_class == "clone":
            ways["cp --reflink"] = lambda: copy("always")
        taken: dict[str, dict[int, float]] = {way: {} for way in ways}
        for number in range(rounds):
            for way in rotated(list(ways), number):
                taken[way][number] = ways[way]()
        for file in sorted(chain.files):
            chain.storage.remove(file)
        if chain.restored_sha256() != chain.sha256:
            raise ValueError(f"{name}: the synthetic full does not restore the disk")
    return {
        "file_system": name,
        "class": storage_class,
        "extents": blocks,
        "full_bytes": full_bytes,
        **moved,
        "seconds": {way: _plain(spread(list(times.values()))) for way, times in taken.items()},
        "cpu_s": _plain(spread(ours_cpu_s)),
        "x_ours": {way: _plain(paired_ratio(taken[way], taken["synthetic"])) for way in ways if way != "synthetic"},
        "restored": True,
    }


def _plain(figures: object) -> Any:
    return msgspec.to_builtins(figures)


def aims(figures: dict[str, Any]) -> dict[str, bool]:
    """Say of each figure that has an aim whether it is met."""
    if figures["class"] == "clone":
        return {"no data moved": figures["moved_bytes"] == 0 and figures["clone_calls"] > 0}
    return {"of a plain cp": figures["x_ours"]["cp"]["median"] >= AIM}


def main(argv: Sequence[str] | None = None) -> int:
    """Print the figures; exit code 1 where an aim is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, default=100_000, help="of the disk, each an extent (100,000)")
    parser.add_argument(
        "--stored", type=int, default=32 * 1024, metavar="BYTES", help="per extent, on average (32 KiB)"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--file-system", action="append", choices=FILE_SYSTEMS, help="only this one; may be repeated")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there (-: to standard output)")
    parser.add_argument("--workdir", type=Path, metavar="DIR", help="where the images lie for the time of it")
    args = parser.parse_args(argv)
    if os.geteuid() != 0:
        parser.error("mounting needs root")
    workdir = Path(tempfile.mkdtemp(prefix="vbrbench-", dir=args.workdir or "/var/tmp"))  # noqa: S108 - large, on a disk
    try:
        found = [
            compare(workdir, name, args.blocks, args.stored, args.rounds)
            for name in args.file_system or list(FILE_SYSTEMS)
        ]
    finally:
        shutil.rmtree(workdir, ignore_errors=True)
    figures: dict[str, Any] = {"file_systems": found, "met": {one["file_system"]: aims(one) for one in found}}
    document = json.dumps(figures, indent=1)
    if args.json is not None and str(args.json) != "-":
        args.json.write_text(document + "\n", encoding="ascii")
    else:
        print(document)
    return 0 if all(all(met.values()) for met in figures["met"].values()) else 1


if __name__ == "__main__":
    sys.exit(main())
