"""What this machine can do at best: the bare work of each phase, on all cores, with nothing around it.

    .venv/bin/python bench/limits.py DISK --survey FILE --work read|hash|compress|restore --scratch DIR

prints one JSON object: wall_s, durable_s, cpu_s, stored_bytes. `read` reads every block that is no hole; `hash` adds
the test for zeros and BLAKE3; `compress` reads and compresses each unique block that is not zero; `restore` reads
compressed blocks, decompresses and writes them to where they belong.
"""

import argparse
import os
import struct
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import blake3
import msgspec
import zstandard

from bench.blocks import Survey, on_all_cores, read_all, survey
from bench.harness import MIB
from bench.process import sync

WORKS: Final = ("read", "hash", "compress", "restore")
BLOCK_BYTES: Final = MIB  # the default of a job
LEVEL: Final = 1  # of the job option `--compression fast`, the default
_WORTH_SAVING: Final = 0.97
_RECORD: Final = struct.Struct("<QQ")


class Limit(msgspec.Struct, frozen=True):
    """One run of one kind of work. `stored_bytes` is what compression leaves, 0 where nothing is compressed."""

    wall_s: float
    durable_s: float
    cpu_s: float
    stored_bytes: int


def read(disk: Path, known: Survey) -> int:
    """Read every block that is no hole."""
    read_all(disk, list(known.data_offsets), known.block_bytes, lambda: lambda _index, _block: None)
    return 0


def hash_blocks(disk: Path, known: Survey) -> int:
    """Read every block that is no hole, test it for zeros and name it."""
    zeros = bytearray(known.block_bytes)

    def name(_index: int, block: memoryview) -> None:
        # A bytearray of the same length on the left makes this one memcmp.
        if len(block) != len(zeros) or zeros != block:
            blake3.blake3(block).digest()

    read_all(disk, list(known.data_offsets), known.block_bytes, lambda: name)
    return 0


def compress(disk: Path, known: Survey) -> int:
    """Read and compress each unique block; return the sum of what would be stored."""
    lengths = [0] * len(known.unique)

    def work() -> Callable[[int, memoryview], None]:
        compressor = zstandard.ZstdCompressor(level=LEVEL)

        def compress_one(index: int, block: memoryview) -> None:
            lengths[index] = min(len(compressor.compress(block)), len(block))

        return compress_one

    read_all(disk, list(known.unique), known.block_bytes, work)
    return sum(lengths)


class Stored:
    """The unique blocks, compressed, in one file: what a restore reads. Made once, not measured."""

    def __init__(self, path: Path, disk: Path, known: Survey) -> None:
        self.path = path
        if not path.exists():
            self._write(disk, known)
        self._table = self._read_table(len(known.unique))

    def extent(self, index: int) -> tuple[int, int]:
        """Return (offset, length) of a unique block."""
        return self._table[index]

    def _write(self, disk: Path, known: Survey) -> None:
        compressor = zstandard.ZstdCompressor(level=LEVEL)
        partial = self.path.with_suffix(".partial")
        with disk.open("rb") as source, partial.open("wb") as file:
            table = []
            for offset in known.unique:
                raw = os.pread(source.fileno(), known.block_bytes, offset)
                packed = compressor.compress(raw)
                table.append((file.tell(), file.write(packed if len(packed) < len(raw) * _WORTH_SAVING else raw)))
            for entry in table:
                file.write(_RECORD.pack(*entry))
        partial.rename(self.path)

    def _read_table(self, count: int) -> list[tuple[int, int]]:
        with self.path.open("rb") as file:
            file.seek(-count * _RECORD.size, os.SEEK_END)
            return [(offset, length) for offset, length in _RECORD.iter_unpack(file.read())]


def restore(stored: Stored, known: Survey, output: Path) -> None:
    """Write the disk anew from its compressed unique blocks, in the order of the disk, sparse."""
    places = known.places
    with stored.path.open("rb", buffering=0) as source, output.open("xb", buffering=0) as target:
        target.truncate(known.size_bytes)

        def worker(indexes: Iterator[int]) -> None:
            decompressor = zstandard.ZstdDecompressor()
            for index in indexes:
                if index >= len(places):
                    return
                offset, unique = places[index]
                start, length = stored.extent(unique)
                data = os.pread(source.fileno(), length, start)
                raw_bytes = min(known.block_bytes, known.size_bytes - offset)
                os.pwrite(target.fileno(), data if length == raw_bytes else decompressor.decompress(data), offset)

        on_all_cores(worker)


def limit(work: str, disk: Path, known: Survey, scratch: Path) -> Limit:
    """Do one kind of work once. `scratch` keeps the compressed blocks from one call to the next."""
    stored = Stored(scratch / "stored", disk, known) if work == "restore" else None
    output = scratch / "restored"
    output.unlink(missing_ok=True)
    sync(scratch)
    cpu_before = time.process_time()
    started = time.perf_counter()
    stored_bytes = 0
    if stored is not None:
        restore(stored, known, output)
    else:
        stored_bytes = {"read": read, "hash": hash_blocks, "compress": compress}[work](disk, known)
    wall_s = time.perf_counter() - started
    cpu_s = time.process_time() - cpu_before
    sync(scratch)
    return Limit(wall_s, time.perf_counter() - started, cpu_s, stored_bytes)


def main() -> int:
    """Run one kind of work in this process and print its figures."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("disk", type=Path)
    parser.add_argument("--survey", type=Path, required=True, help="where the disk's survey is kept; made if absent")
    parser.add_argument("--work", choices=WORKS, required=True)
    parser.add_argument("--scratch", type=Path, required=True, help="a directory on the file system to write to")
    args = parser.parse_args()
    if args.survey.exists():
        known = msgspec.msgpack.decode(args.survey.read_bytes(), type=Survey)
    else:
        known = survey(args.disk, BLOCK_BYTES)
        args.survey.write_bytes(msgspec.msgpack.encode(known))
    print(msgspec.json.encode(limit(args.work, args.disk, known, args.scratch)).decode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
