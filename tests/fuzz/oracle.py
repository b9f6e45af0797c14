"""What may come of a file, however it was spoilt: the bytes that its maps name, or a typed error. Nothing else."""

import contextlib
import resource
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, TypeVar

from tests.fuzz.chains import Chain
from vbrcore.backupfile.codec import ZERO_DIGEST
from vbrcore.backupfile.maps import FANOUT, height
from vbrcore.chain.files import read_files
from vbrcore.chain.listing import list_chains, read_points
from vbrcore.chain.reader import ChainReader
from vbrcore.model.errors import FormatInvalid, StorageFailed, VbrError
from vbrcore.model.point import Point, PointDisk
from vbrcore.mover.disk_restore import DiskRestore
from vbrcore.storage.port import Storage
from vbrcore.testing import chain_kit as kit

T = TypeVar("T")

# One execution: so much processor time, and so much memory on top of what the process has when it begins. Files have
# about 1 MiB; the largest thing that one of their rows may rightly ask for is a configuration of 64 MiB.
STEP_SECONDS: Final = 20
MEMORY_BYTES: Final = 160 * 1024 * 1024
MOST_WRITES: Final = 5000


class Wrong(Exception):
    """Something was given out that no file holds, or lost that was whole."""


class Enough(StorageFailed):
    """A sink has taken as much as there is to be learnt from."""


class Hung(BaseException):
    """It takes longer than anything of this size may."""


@contextlib.contextmanager
def bounded() -> Iterator[None]:
    """End what does not end by itself. Processor time counts, so a busy machine makes no difference."""

    def end(*_: object) -> None:
        raise Hung(f"more than {STEP_SECONDS} s of processor time")

    before = signal.signal(signal.SIGPROF, end)
    signal.setitimer(signal.ITIMER_PROF, STEP_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def limit_memory() -> None:
    """Let this process have `MEMORY_BYTES` more than it has now. Beyond that, Python raises MemoryError.

    Private memory is counted (RLIMIT_DATA), not addresses: the index maps a file of 64 GiB.
    """
    with Path("/proc/self/status").open() as status:
        used_kib = next(int(line.split()[1]) for line in status if line.startswith("VmData:"))
    most = used_kib * 1024 + MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_DATA, (most, resource.getrlimit(resource.RLIMIT_DATA)[1]))


def typed(call: Callable[[], T]) -> T | None:
    """Return what a call returns; None for a typed error. Every other exception goes through: it is a failure."""
    try:
        return call()
    except VbrError:
        return None


class Sink:
    """Notes what is written to a disk: content by offset. See `vbrcore.plugins.mover.Writer`."""

    def __init__(self, *, ordered: bool) -> None:
        self.ordered = ordered
        self.written: dict[int, bytes] = {}
        self.zeros_bytes = 0

    def write_from(self, offset: int, data: memoryview) -> None:
        if len(self.written) >= MOST_WRITES:
            raise Enough("a test has seen enough")
        self.written[offset] = bytes(data)

    def zero(self, _offset: int, length: int) -> None:
        self.zeros_bytes += length

    def finish(self) -> None: ...

    def close(self) -> None: ...


class Unknown(Exception):
    """A map names what there is not: nothing may be restored from it."""


def expected(disk: PointDisk, block_size_bytes: int, contents: dict[bytes, bytes]) -> dict[int, bytes]:
    """Return what a disk holds by its map, as docs/FORMAT.md section 5 has it: content by offset. Raises `Unknown`."""
    blocks = -(-disk.size_bytes // block_size_bytes)
    found: dict[int, bytes] = {}

    def enter(name: bytes, level: int, index: int) -> None:
        if name == ZERO_DIGEST:
            return
        content = contents.get(name)
        if content is None or index * FANOUT**level >= blocks or len(found) > MOST_WRITES:
            raise Unknown
        if level == 0:
            if len(content) != min(block_size_bytes, disk.size_bytes - index * block_size_bytes):
                raise Unknown
            found[index * block_size_bytes] = content
        elif len(content) != FANOUT * len(ZERO_DIGEST):
            raise Unknown
        else:
            for entry in range(FANOUT):
                enter(content[entry * 32 : entry * 32 + 32], level - 1, index * FANOUT + entry)

    enter(disk.root, height(disk.size_bytes, block_size_bytes), 0)
    return found


def look(storage: Storage, chain: Chain) -> set[str]:
    """Read everything in every way. Return the ids of the points that are whole. Raises `Wrong`."""
    typed(lambda: list_chains(storage))
    typed(lambda: read_points(storage, kit.DIRECTORY))
    typed(lambda: read_files(storage, kit.DIRECTORY).missing())
    reader = typed(lambda: ChainReader.open(storage, kit.DIRECTORY))
    if reader is None:
        return set()
    with reader:
        assert isinstance(reader.warnings, tuple)
        typed(lambda: reader.damaged)
        if chain.chain_key is not None:
            reader.unlock(chain.chain_key)
        whole = _whole(reader, chain, _look_at)
        for listed in reader.points:
            _pinned_and_given_back(storage, listed.point_id)
    return whole


def whole_points(storage: Storage, chain: Chain) -> set[str]:
    """Return the ids of the points that are whole, without all the other ways of reading."""
    reader = typed(lambda: ChainReader.open(storage, kit.DIRECTORY))
    if reader is None:
        return set()
    with reader:
        if chain.chain_key is not None:
            reader.unlock(chain.chain_key)
        return _whole(reader, chain, _restores)


def _whole(reader: ChainReader, chain: Chain, look_at: Callable[[ChainReader, Chain, Point, int], bool]) -> set[str]:
    whole = set()
    for listed in reader.points:
        with contextlib.suppress(VbrError):
            point = reader.point(listed.point_id)
            disks = [look_at(reader, chain, point, number) for number in range(len(point.disks))]
            if point.configuration:
                reader.block(point.configuration)
            if all(disks):
                whole.add(point.point_id)
    return whole


def _pinned_and_given_back(storage: Storage, point_id: str) -> None:
    with contextlib.suppress(VbrError), ChainReader.open(storage, kit.DIRECTORY, point_id):
        pass


def _look_at(reader: ChainReader, chain: Chain, point: Point, number: int) -> bool:
    """Restore and check one disk of a point in every way. Say whether it is whole."""
    disk, size = point.disks[number], point.block_size_bytes
    whole = _restores(reader, chain, point, number)
    wanted = _wanted(chain, point, number)
    written = _restored(reader, disk, size, ordered=True)
    if written is not None and written != wanted:
        raise Wrong(f"point {point.point_id}, disk {number}: a stream of bytes that its map does not name")
    healthy = _healthy(reader, disk, size, deep=True)
    _healthy(reader, disk, size, deep=False)
    if healthy and wanted is None:
        raise Wrong(f"point {point.point_id}, disk {number}: verified though it is not whole")
    return whole


def _restores(reader: ChainReader, chain: Chain, point: Point, number: int) -> bool:
    written = _restored(reader, point.disks[number], point.block_size_bytes, ordered=False)
    if written is not None and written != _wanted(chain, point, number):
        raise Wrong(f"point {point.point_id}, disk {number}: bytes that its map does not name")
    return written is not None


def _wanted(chain: Chain, point: Point, number: int) -> dict[int, bytes] | None:
    """Return what a disk holds, by its map and, where it is one that was backed up, by the model; None: not whole."""
    disk = point.disks[number]
    try:
        wanted: dict[int, bytes] | None = expected(disk, point.block_size_bytes, chain.contents)
    except (Unknown, FormatInvalid):
        wanted = None
    model = chain.points.get(point.point_id)
    if model is not None and number < len(model.disks) and _same(model.disks[number], disk):
        image = chain.images[point.point_id, number]
        if wanted != {index * point.block_size_bytes: content for index, content in image.items()}:
            raise Wrong("the model contradicts itself")
    elif chain.chain_key is not None:
        raise Wrong(f"a disk of point {point.point_id} was opened that nobody with the key has sealed")
    return wanted


def _same(model: PointDisk, disk: PointDisk) -> bool:
    return (model.size_bytes, model.root) == (disk.size_bytes, disk.root)


def _restored(reader: ChainReader, disk: PointDisk, block_size_bytes: int, *, ordered: bool) -> dict[int, bytes] | None:
    sink = Sink(ordered=ordered)
    restore = typed(lambda: DiskRestore(reader, disk, block_size_bytes, sink, deep=False, threads=1))
    if restore is None:
        return None
    try:
        restore.run()
    except VbrError:
        return None
    if ordered and sum(map(len, sink.written.values())) + sink.zeros_bytes != disk.size_bytes:
        raise Wrong("a stream of another length than the disk's")
    return sink.written


def _healthy(reader: ChainReader, disk: PointDisk, block_size_bytes: int, *, deep: bool) -> bool:
    try:
        restore = DiskRestore(reader, disk, block_size_bytes, None, deep=deep, threads=1)
        restore.run()
    except VbrError:
        return False
    damaged = restore.damaged()
    if any(offset < 0 or length <= 0 or offset + length > disk.size_bytes for offset, length in damaged):
        raise Wrong(f"damage outside of the disk: {damaged[:3]}")
    return not damaged
