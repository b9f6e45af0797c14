"""What eviction moves and what a chain takes, day after day: a simulated disk on a storage in memory.

    .venv/bin/python bench/eviction.py                 400 days in each class, with both policies
    .venv/bin/python bench/eviction.py --days 100 --class punch --policy keep-14

One JSON object per line. `moved_per_new`: stored bytes that were copied, per byte that the backups added, over all days
(`total`), over the days since 64 files hold no point (class copy: since the 30th day) (`later`), and in the worst 30
days of those. `stored_per_live`: what extents take in the files, per byte of extents that kept points reach, at its
worst after the tenth day. `overhead_per_live`: slots, tables and contents lists at the end; at a real size it is small.
"""

import argparse
import json
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from vbrcore.backupfile.codec import digest
from vbrcore.backupfile.maps import PageBuilder, walk
from vbrcore.backupfile.rows import HEADER_BYTES, KIND_PAGE
from vbrcore.chain.files import read_files
from vbrcore.chain.reader import ChainReader
from vbrcore.chain.writer import ChainWriter
from vbrcore.model.point import PointDisk
from vbrcore.storage.capabilities import STORAGE_CLASSES, StorageClass
from vbrcore.storage.port import SLOT_BYTES
from vbrcore.testing import chain_kit as kit
from vbrcore.testing.memory_storage import MemoryStorage

STORED_BYTES = 16 * 1024 - 64  # with its header an extent of exactly four blocks
POLICIES = ("keep-14", "weekly-monthly-yearly")
PARTS = 32  # class copy closes files at a size of which a full takes this many


class Disk:
    """Blocks that change: four in five of a day's changes hit one in five of the blocks, each the same often."""

    def __init__(self, blocks: int, changed: int, seed: int) -> None:
        self._random = random.Random(seed)  # noqa: S311
        self.blocks, self.changed = blocks, changed
        self.content = [self._new() for _ in range(blocks)]
        self._digests = [digest(data) for data in self.content]
        self._waiting = set(range(blocks))

    def change(self) -> None:
        hot = self.blocks // 5
        for _ in range(self.changed):
            low, high = (0, hot) if self._random.random() < 0.8 else (hot, self.blocks)
            block = self._random.randrange(low, high)
            self.content[block] = self._new()
            self._digests[block] = digest(self.content[block])
            self._waiting.add(block)

    def back_up(self, writer: ChainWriter) -> str:
        """Send what changed, and the map; return the point's id."""
        size_bytes = kit.size_of(self.blocks)
        for block in sorted(self._waiting):
            kit.send(writer, self.content[block])
        self._waiting.clear()
        builder = PageBuilder(size_bytes, kit.BLOCK)
        pages = [page for name in self._digests for page in builder.add(name)]
        rest, root = builder.finish()
        for _, page in [*pages, *rest]:
            kit.send(writer, page, KIND_PAGE)
        return writer.commit_point(kit.point_of(PointDisk("d0", "d0", size_bytes, root))).point_id

    def _new(self) -> bytes:
        return self._random.randbytes(STORED_BYTES)


def keeps(policy: str, day: int, today: int) -> bool:
    """Say whether the point of a day is kept."""
    age = today - day
    if age < 14 or policy == "keep-14":
        return age < 14
    return (day % 7 == 0 and age < 5 * 7) or (day % 30 == 0 and age < 12 * 30) or day % 365 == 0


def simulate(storage_class: StorageClass, policy: str, days: int, disk: Disk, home: Path) -> dict[str, Any]:
    """Return the figures of one chain. Raises `ValueError` when a kept point does not restore at the end."""
    storage = MemoryStorage(storage_class=storage_class)
    points: dict[int, str] = {}
    images: dict[int, dict[int, bytes]] = {}
    figures: list[tuple[int, int, int]] = []  # new, moved, files without points
    worst = clone_calls = 0.0
    started = time.monotonic()
    for day in range(days):
        writer = kit.open_writer(storage, home / "index", created=1_700_000_000.0 + day * 86400)
        if storage_class == "copy":
            writer.file_limit_bytes = disk.blocks * 16 * 1024 // PARTS
        points[day] = disk.back_up(writer)
        images[day] = dict(enumerate(disk.content)) if day >= days - 3 else {}
        new_bytes = writer.stored_bytes
        writer.forget(point for other, point in points.items() if not keeps(policy, other, day))
        done = writer.give_back(storage_class)
        writer.seal()
        points = {other: point for other, point in points.items() if keeps(policy, other, day)}
        pointless = sum(not file.contents.points for file in read_files(storage, kit.DIRECTORY).files)
        figures.append((new_bytes, done.moved_bytes if done else 0, pointless))
        clone_calls += done.clone_calls if done else 0
        if day >= 10 and day % 20 == 0:
            worst = max(worst, (taken_bytes(storage) - overhead_bytes(storage)) / live_bytes(storage))
        disk.change()
    for day in range(days - 3, days):
        if kit.restore(storage, points[day]) != {"d0": images[day]}:
            raise ValueError(f"the point of day {day} does not restore")
    settled = 30 if storage_class == "copy" else next((d for d, row in enumerate(figures) if row[2] >= 64), days - 1)
    later = figures[settled:]
    windows = [later[first : first + 30] for first in range(max(1, len(later) - 29))]
    return {
        "class": storage_class,
        "policy": policy,
        "days": days,
        "changed_per_day": disk.changed / disk.blocks,
        "moved_per_new": {
            "total": ratio(figures),
            "later": ratio(later),
            "worst_30_days": max(ratio(window) for window in windows),
        },
        "stored_per_live": round(worst, 3),
        "overhead_per_live": round(overhead_bytes(storage) / live_bytes(storage), 3),
        "files": sum(name.endswith(".vbf") for name in storage.list("")),
        "clone_calls": int(clone_calls),
        "seconds": round(time.monotonic() - started, 1),
    }


def ratio(figures: list[tuple[int, int, int]]) -> float:
    return round(sum(moved for _, moved, _ in figures) / max(1, sum(new for new, _, _ in figures)), 3)


def taken_bytes(storage: MemoryStorage) -> int:
    """What the files take; a range that files share counts once."""
    return (1 << 40) - storage.free_bytes()  # of its default capacity


def overhead_bytes(storage: MemoryStorage) -> int:
    """Slots, table parts and contents lists of all files."""
    lengths = []
    for file in read_files(storage, kit.DIRECTORY).files:
        lengths += [SLOT_BYTES, SLOT_BYTES, file.slot.contents_length]
        lengths += [part.end - part.offset for part in file.contents.tables]
    return sum(-(-length // 4096) * 4096 for length in lengths)


def live_bytes(storage: MemoryStorage) -> int:
    """The extents of all that the points reach, found out without mark and sweep."""
    lengths: dict[bytes, int] = {}

    def seen(_level: int, _index: int, name: bytes) -> bool:
        return name in lengths

    with ChainReader.open(storage, kit.DIRECTORY) as reader:
        for point in reader.points:
            for disk in point.disks:
                names = [name for *_, name in walk(disk.root, disk.size_bytes, kit.BLOCK, reader.block, seen)]
                for name in names:
                    row = reader.stored(name)[0]
                    lengths[name] = -(-(HEADER_BYTES + row.stored_length) // 4096) * 4096
    return sum(lengths.values())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--days", type=int, default=400)
    parser.add_argument("--blocks", type=int, default=4000)
    parser.add_argument("--changed", type=float, default=0.02, help="part of the blocks that is written anew each day")
    parser.add_argument("--class", dest="classes", action="append", choices=STORAGE_CLASSES)
    parser.add_argument("--policy", dest="policies", action="append", choices=POLICIES)
    choice = parser.parse_args()
    for policy in choice.policies or POLICIES:
        for storage_class in choice.classes or STORAGE_CLASSES:
            with tempfile.TemporaryDirectory() as home:
                disk = Disk(choice.blocks, round(choice.blocks * choice.changed), seed=7)
                figures = simulate(storage_class, policy, choice.days, disk, Path(home))
            print(json.dumps(figures), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
