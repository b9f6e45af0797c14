"""One operation on a chain as a process of its own: `python -m tests.chain.pairs ROOT INDEX OPERATION NUMBER`.

It says `ready`, waits for a line on standard input, and goes on doing the operation until it has done it `_TIMES` times
or is told to stop. What it did is one JSON object per line. A chain that another process writes is waited for.
"""

import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from vbrcore.backupfile.codec import ZERO_DIGEST, digest
from vbrcore.backupfile.maps import walk
from vbrcore.chain.checkup import Checkup
from vbrcore.chain.listing import list_chains, read_points
from vbrcore.chain.reader import ChainReader
from vbrcore.chain.writer import SEND, ChainWriter
from vbrcore.model.errors import ChainLocked, InvalidValue, NotFound
from vbrcore.model.ids import new_id
from vbrcore.storage.capabilities import probe
from vbrcore.storage.local import LocalStorage
from vbrcore.testing import chain_kit as kit

BLOCKS = 300
SIZE = kit.size_of(BLOCKS)
COPY = "copy"  # the directory of the chain that is copied to
_TIMES = 2
_PATIENCE_S = 120.0


def image(number: int) -> dict[int, bytes]:
    """The disk of a point: most of it is common to all, some is its own."""
    return {block: kit.content(block if block % 10 else number * 1000 + block) for block in range(0, BLOCKS, 4)}


def main(root: Path, index: Path, operation: str, number: int) -> None:
    storage = LocalStorage(root)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.readline()
    for time_ in range(_TIMES):
        for done in OPERATIONS[operation](storage, index, number + time_):
            sys.stdout.write(f"{json.dumps(done)}\n")
            sys.stdout.flush()


def opened(storage: LocalStorage, index: Path, **changes: object) -> ChainWriter:
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        try:
            return kit.open_writer(storage, index, **changes)  # type: ignore[arg-type]
        except ChainLocked:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)


Done = Iterator[dict[str, object]]


def backup(storage: LocalStorage, index: Path, number: int, **changes: object) -> Done:
    writer = opened(storage, index, **changes)
    try:
        point = kit.send_point(writer, image(number), SIZE)
        yield {"committed": point.point_id, "number": number}
        writer.seal()
    finally:
        writer.close()


def active_full(storage: LocalStorage, index: Path, number: int) -> Done:
    yield from backup(storage, index, number, new_generation=True)


def evict(storage: LocalStorage, index: Path, _number: int) -> Done:
    writer = opened(storage, index)
    try:
        points = writer.points
        if len(points) > 3:
            # Before it is done: a kill in between must not leave the parent in doubt.
            yield {"forgetting": points[0].point_id}
            writer.forget([points[0].point_id])
        done = writer.give_back(probe(storage), force=True)
        assert done is not None
        assert done.warnings == [], done.warnings
        writer.seal()
    finally:
        writer.close()


def delete(storage: LocalStorage, index: Path, _number: int) -> Done:
    writer = opened(storage, index)
    try:
        points = writer.points
        if len(points) > 3:
            yield {"forgetting": points[len(points) // 2].point_id}
            writer.forget([points[len(points) // 2].point_id])
        writer.seal()
    finally:
        writer.close()


def synthetic_full(storage: LocalStorage, index: Path, _number: int) -> Done:
    writer = opened(storage, index)
    try:
        writer.synthetic_full(probe(storage))
        writer.seal()
        yield {"full": True}
    except InvalidValue:  # a generation that has no points yet
        yield {"full": False}
    finally:
        writer.close()


def compact(storage: LocalStorage, index: Path, number: int) -> Done:
    writer = opened(storage, index)
    try:
        done = writer.compact(probe(storage), rewrite=bool(number % 2))
        assert done.warnings == [], done.warnings
        writer.seal()
        yield {"moved": done.moved_bytes}
    finally:
        writer.close()


def restore(storage: LocalStorage, _index: Path, _number: int) -> Done:
    """Read the oldest and the newest point, whole and pinned; one that goes before it is pinned is not there."""
    points = read_points(storage, kit.DIRECTORY)
    for point in (points[0], points[-1]):
        try:
            reader = ChainReader.open(storage, kit.DIRECTORY, point.point_id)
        except NotFound:
            yield {"gone": point.point_id}
            continue
        with reader:
            pinned = reader.point(point.point_id)
            reader.block(pinned.configuration)
            leaves = reader.leaves(pinned, pinned.disks[0])
            read = {at: reader.block(name) for at, name in leaves if name != ZERO_DIGEST}
        yield {"restored": point.point_id, "digest": digest_of(read)}


def health(storage: LocalStorage, _index: Path, _number: int) -> Done:
    """Check all that the chain stores. Nothing is pinned, and what is gone meanwhile is no damage."""
    with ChainReader.open(storage, kit.DIRECTORY) as reader:
        checkup = Checkup(storage, reader, deep=True)
        buffer = bytearray(2 * kit.BLOCK)
        read = sum(checkup.check(extent, buffer) for extent in checkup.extents())
        diagnosis = checkup.diagnose()
        assert diagnosis.bad_extents == 0, diagnosis
        assert diagnosis.is_clean, diagnosis
        yield {"read": read}


def copy(storage: LocalStorage, index: Path, number: int) -> Done:
    """Copy the newest point, pinned, into another chain, as it is stored."""
    newest = read_points(storage, kit.DIRECTORY)[-1]
    try:
        reader = ChainReader.open(storage, kit.DIRECTORY, newest.point_id)
    except NotFound:
        yield {"gone": newest.point_id}
        return
    with reader:
        point = reader.point(newest.point_id)
        writer = opened(storage, index / COPY, directory=COPY)
        try:
            disk = point.disks[0]
            names = [name for _, _, name in walk(disk.root, disk.size_bytes, kit.BLOCK, reader.block)]
            for name in (*names, point.configuration):
                if writer.lookup([name], number)[0] == SEND:
                    row, stored = reader.stored(name)
                    writer.append(row, stored, number)
            copied = writer.commit_point(
                msgspec.structs.replace(point, point_id=new_id(), source_point_id=point.point_id)
            )
            yield {"copied": copied.point_id, "of": point.point_id}
            writer.seal()
        finally:
            writer.close()


def look(storage: LocalStorage, _index: Path, _number: int) -> Done:
    """List chains and points, as an import does."""
    assert kit.DIRECTORY in list_chains(storage)
    yield {"points": [point.point_id for point in read_points(storage, kit.DIRECTORY)]}


OPERATIONS: dict[str, Callable[[LocalStorage, Path, int], Done]] = {
    "backup": backup,
    "active_full": active_full,
    "evict": evict,
    "delete": delete,
    "synthetic_full": synthetic_full,
    "compact": compact,
    "restore": restore,
    "health": health,
    "copy": copy,
    "look": look,
}


def digest_of(read: dict[int, bytes]) -> str:
    """Return what stands for the contents of a disk."""
    return digest(b"".join(index.to_bytes(4, "big") + data for index, data in sorted(read.items()))).hex()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]))
