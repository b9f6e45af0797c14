"""A realistic disk: an ext4 root file system of this machine's own files, the same at each call with the same files.

Text and binaries come from the system's directories as they are; a fifth of the used space is already compressed
(packages, archives, manual pages); a quarter of the disk is free, as holes.
"""

import gzip
import hashlib
import io
import os
import random
import shutil
import stat
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import msgspec

from bench.harness import MIB
from bench.process import run

TREES: Final = ("/usr", "/opt", "/var/cache/apt")
_COMPRESSED_ENDINGS: Final = frozenset(
    (".deb", ".gz", ".whl", ".xz", ".zst", ".bz2", ".zip", ".tgz", ".jar", ".jmod", ".png", ".jpg", ".woff2")
)
_USED_SHARE: Final = 0.70  # of the disk; file system's own tables and rounding add about 5 %
_COMPRESSED_SHARE: Final = 0.20  # of what is used
_LARGEST_SHARE: Final = 0.05  # of what is used: no file may make up the disk
_BLOCK_BYTES: Final = 4096
_INODE_BYTES: Final = 256
_EPOCH: Final = 1_700_000_000
_UUID: Final = "5a6b1f6e-27d5-4f5e-9f3c-0d0c5b0f1a11"
_CHANGE_SHORTEST_BYTES: Final = 16 * 1024
_CHANGE_LONGEST_BYTES: Final = 4 * MIB


class Corpus(msgspec.Struct, frozen=True):
    """The disk's file and what is in it. `allocated_bytes` leaves out holes."""

    path: str
    size_bytes: int
    allocated_bytes: int
    files: int
    plain_bytes: int
    compressed_bytes: int


class _File(msgspec.Struct, frozen=True):
    path: str
    size_bytes: int
    compressed: bool


def build(path: Path, size_bytes: int, trees: Sequence[str] = TREES) -> Corpus:
    """Make the disk at `path`, unless a file of `path` with `.json` says that it is there. Raises `CommandFailed`."""
    note = path.with_name(path.name + ".json")
    if path.exists() and note.exists():
        known = msgspec.json.decode(note.read_bytes(), type=Corpus)
        if known.size_bytes == size_bytes and Path(known.path) == path:
            return known
    stage = path.with_name(path.name + ".stage")
    shutil.rmtree(stage, ignore_errors=True)
    stage.mkdir(parents=True)
    try:
        files, plain_bytes, compressed_bytes = _fill(stage, int(size_bytes * _USED_SHARE), trees)
        _make_file_system(path, size_bytes, stage)
    finally:
        shutil.rmtree(stage, ignore_errors=True)
    corpus = Corpus(str(path), size_bytes, path.stat().st_blocks * 512, files, plain_bytes, compressed_bytes)
    note.write_bytes(msgspec.json.encode(corpus))
    return corpus


class Change:
    """Overwrites `share` of a disk and takes it back: runs of 16 KiB to 4 MiB, at random places that hold data.

    What is written is other data of the same disk, byte by byte backwards: as compressible, but nowhere to be found.
    """

    def __init__(self, disk: Path, share: float, seed: int = 1) -> None:
        self._disk = disk
        self._before: list[tuple[int, bytes]] = []
        self.ranges = _ranges(disk, int(disk.stat().st_size * share), random.Random(seed))  # noqa: S311 - no secret

    @property
    def changed_bytes(self) -> int:
        return sum(length for _, length in self.ranges)

    def pieces(self) -> Iterator[tuple[int, bytes]]:
        """Yield (offset, new content); reads the disk as it is now."""
        sources = [offset for offset, _ in self.ranges[1:] + self.ranges[:1]]
        with self._disk.open("rb") as file:
            for (offset, length), source in zip(self.ranges, sources, strict=True):
                data = os.pread(file.fileno(), length, source)
                yield offset, data.ljust(length, b"\0")[::-1]

    def apply(self) -> None:
        """Change the disk."""
        pieces = list(self.pieces())
        with self._disk.open("r+b") as file:
            self._before = [(offset, os.pread(file.fileno(), len(data), offset)) for offset, data in pieces]
            for offset, data in pieces:
                os.pwrite(file.fileno(), data, offset)

    def revert(self) -> None:
        """Put back what `apply` has overwritten."""
        with self._disk.open("r+b") as file:
            for offset, data in reversed(self._before):
                os.pwrite(file.fileno(), data, offset)
        self._before = []


def extents(path: Path) -> list[tuple[int, int]]:
    """Return (offset, length) of what is no hole."""
    found: list[tuple[int, int]] = []
    with path.open("rb") as file:
        size_bytes = os.fstat(file.fileno()).st_size
        end = 0
        while end < size_bytes:
            try:
                start = os.lseek(file.fileno(), end, os.SEEK_DATA)
            except OSError:  # ENXIO: no data behind `end`
                break
            end = os.lseek(file.fileno(), start, os.SEEK_HOLE)
            found.append((start, end - start))
    return found


def _ranges(disk: Path, wanted_bytes: int, chance: random.Random) -> list[tuple[int, int]]:
    """Pick runs of data, without overlap, in order, that add up to about `wanted_bytes`."""
    data = [extent for extent in extents(disk) if extent[1] >= _CHANGE_SHORTEST_BYTES]
    taken: dict[int, int] = {}
    left = wanted_bytes
    while left > 0 and data:
        start, length = chance.choices(data, weights=[length for _, length in data])[0]
        run_bytes = int(2 ** chance.uniform(14, 22)) // _BLOCK_BYTES * _BLOCK_BYTES
        run_bytes = max(
            _BLOCK_BYTES, min(run_bytes, length, left, _CHANGE_LONGEST_BYTES) // _BLOCK_BYTES * _BLOCK_BYTES
        )
        offset = start + chance.randrange(0, length - run_bytes + 1) // _BLOCK_BYTES * _BLOCK_BYTES
        if all(offset + run_bytes <= other or other + taken[other] <= offset for other in taken):
            taken[offset] = run_bytes
            left -= run_bytes
    return sorted(taken.items())


def _fill(stage: Path, budget_bytes: int, trees: Sequence[str]) -> tuple[int, int, int]:
    """Copy files into `stage`; return (number of files, bytes of plain ones, bytes of compressed ones)."""
    candidates = sorted(_walk(trees), key=lambda file: hashlib.sha256(file.path.encode()).digest())
    compressed_budget = int(budget_bytes * _COMPRESSED_SHARE)
    largest = int(budget_bytes * _LARGEST_SHARE)
    compressed = _take((file for file in candidates if file.compressed), compressed_budget, largest)
    plain = _take((file for file in candidates if not file.compressed), budget_bytes - compressed_budget, largest)
    for file in sorted(compressed + plain, key=lambda file: file.path):
        _copy(file.path, stage)
    compressed_bytes = sum(file.size_bytes for file in compressed)
    compressed_bytes += _archive(plain, stage / "srv/archive", compressed_budget - compressed_bytes)
    _same_times(stage)
    return len(compressed) + len(plain), sum(file.size_bytes for file in plain), compressed_bytes


def _walk(trees: Sequence[str]) -> Iterator[_File]:
    for tree in trees:
        for directory, _, names in os.walk(tree):
            for name in names:
                path = f"{directory}/{name}"
                try:
                    state = os.lstat(path)
                except OSError:
                    continue
                if stat.S_ISREG(state.st_mode) and os.access(path, os.R_OK):
                    yield _File(path, state.st_size, os.path.splitext(name)[1].lower() in _COMPRESSED_ENDINGS)  # noqa: PTH122


def _take(files: Iterator[_File], budget_bytes: int, largest_bytes: int) -> list[_File]:
    """Return the first files that fit, with the blocks, inodes and directories that they need."""
    taken: list[_File] = []
    directories: set[Path] = set()
    for file in files:
        if file.size_bytes > largest_bytes:
            continue
        new = set(Path(file.path).parents) - directories
        occupied = -(-file.size_bytes // _BLOCK_BYTES) * _BLOCK_BYTES + _INODE_BYTES
        occupied += len(new) * (_BLOCK_BYTES + _INODE_BYTES)
        if occupied > budget_bytes:
            continue
        budget_bytes -= occupied
        directories |= new
        taken.append(file)
    return taken


def _copy(path: str, stage: Path) -> None:
    target = stage / path.lstrip("/")
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        shutil.copyfile(path, target)
    except FileNotFoundError:  # it went away since the walk
        return
    target.chmod(0o644)


def _archive(files: Sequence[_File], directory: Path, budget_bytes: int) -> int:
    """Write compressed archives of plain files until the budget is used: machines without packages have them too."""
    if budget_bytes < MIB:
        return 0
    directory.mkdir(parents=True)
    written = 0
    part_bytes = max(MIB, budget_bytes // 8)
    queue = iter(files)
    while written < budget_bytes:
        path = directory / f"{written:012}.tar.gz"
        with path.open("wb") as raw:
            added = _write_archive(raw, queue, part_bytes)
        if not added:
            path.unlink()
            break
        written += path.stat().st_size
    return written


def _write_archive(raw: io.BufferedWriter, files: Iterator[_File], size_bytes: int) -> int:
    """Pack files until the archive has `size_bytes`; return how many."""
    added = 0
    # mtime: a gzip header holds the time of its making, and the disk is to be the same each time.
    with (
        gzip.GzipFile(filename="", fileobj=raw, mode="wb", mtime=_EPOCH) as packed,
        tarfile.open(fileobj=packed, mode="w|", format=tarfile.PAX_FORMAT) as archive,
    ):
        for file in files:
            info = tarfile.TarInfo(file.path.lstrip("/"))
            data = Path(file.path).read_bytes()
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
            added += 1
            if raw.tell() >= size_bytes:
                break
    return added


def _same_times(stage: Path) -> None:
    for directory, _, names in os.walk(stage, topdown=False):
        for name in names:
            os.utime(f"{directory}/{name}", (_EPOCH, _EPOCH))
        os.utime(directory, (_EPOCH, _EPOCH))


def _make_file_system(path: Path, size_bytes: int, stage: Path) -> None:
    """Make the disk sparse; all that mke2fs would draw by lot is given."""
    path.unlink(missing_ok=True)
    with path.open("wb") as file:
        file.truncate(size_bytes)
    options = f"root_owner=0:0,hash_seed={_UUID},lazy_itable_init=0,lazy_journal_init=1"
    environment = {
        **os.environ,
        "E2FSPROGS_FAKE_TIME": str(_EPOCH),
        "PATH": f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin",
    }
    command = ["mke2fs", "-q", "-F", "-t", "ext4", "-b", str(_BLOCK_BYTES), "-m", "0"]
    entries = sum(len(directories) + len(names) for _, directories, names in os.walk(stage))
    command += ["-N", str(max(size_bytes // 16384, entries + entries // 8 + 64))]
    run([*command, "-L", "root", "-U", _UUID, "-E", options, "-d", str(stage), str(path)], env=environment)
