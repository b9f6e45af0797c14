"""How much anonymous memory movers take with eight disks at once: one target mover and eight source movers.

    .venv/bin/python bench/memory.py                          8 disks of 1 GiB, cut from a realistic one
    .venv/bin/python bench/memory.py --size 256M --json -

The movers are driven as a job manager drives them (bench/movers.py), all eight sources at the same time, which on a
small machine the slots would not allow. RssAnon of every mover is read from /proc/PID/status a hundred times a second.
"""

import argparse
import asyncio
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec

from bench import corpus
from bench.harness import GIB, MIB, parse_size, table
from bench.movers import Line, expect
from bench.process import anonymous_bytes
from vbrcore.mover import messages as m
from vbrcore.transport.client import MoverHandle

SOURCE_AIM_BYTES: Final = 128 * MIB
TARGET_AIM_BYTES: Final = 256 * MIB
_SAMPLE_S: Final = 0.01
_STEP_BYTES: Final = 64 * MIB


class Peaks(msgspec.Struct, frozen=True):
    """Highest RssAnon that was seen: of the target mover, and of each source mover."""

    disks: int
    size_bytes: int
    source_peak_bytes: tuple[int, ...]
    target_peak_bytes: int
    samples: int
    source_aim_bytes: int = SOURCE_AIM_BYTES
    target_aim_bytes: int = TARGET_AIM_BYTES

    @property
    def met(self) -> bool:
        return max(self.source_peak_bytes) <= SOURCE_AIM_BYTES and self.target_peak_bytes <= TARGET_AIM_BYTES


class _Sampler:
    """Reads the memory of movers until it is stopped."""

    def __init__(self) -> None:
        self.peaks: dict[int, int] = {}
        self.samples = 0
        self._stopped = False

    def watch(self, handle: MoverHandle) -> None:
        self.peaks[handle.pid] = 0

    async def run(self) -> None:
        while not self._stopped:
            for pid in self.peaks:
                self.peaks[pid] = max(self.peaks[pid], anonymous_bytes(pid))
            self.samples += 1
            await asyncio.sleep(_SAMPLE_S)

    def stop(self) -> None:
        self._stopped = True


async def measure(workdir: Path, disks: Sequence[Path]) -> Peaks:
    """Back all disks up at once."""
    sampler = _Sampler()
    async with Line(workdir) as line:
        target = await line.start_target()
        sampler.watch(target)
        sampling = asyncio.create_task(sampler.run())
        sources = [await line.start_source(disk.name, disk) for disk in disks]
        for source in sources:
            sampler.watch(source)
        done = await asyncio.gather(*(expect(source, m.DiskDone) for source in sources))
        await line.commit(done)
        sampler.stop()
        await sampling
    return Peaks(
        disks=len(disks),
        size_bytes=disks[0].stat().st_size,
        source_peak_bytes=tuple(sampler.peaks[source.pid] for source in sources),
        target_peak_bytes=sampler.peaks[target.pid],
        samples=sampler.samples,
    )


def make_disks(workdir: Path, size_bytes: int, count: int) -> list[Path]:
    """Make disks of the same kind of content that have no block in common: each is shifted by a few bytes."""
    source = Path(corpus.build(workdir / f"corpus-{size_bytes}.raw", size_bytes).path)
    disks = []
    for number in range(count):
        path = workdir / f"disk{number}.raw"
        with source.open("rb") as read, path.open("wb") as write:
            for start, length in corpus.extents(source):
                for offset in range(start, start + length, _STEP_BYTES):
                    data = os.pread(read.fileno(), min(_STEP_BYTES, start + length - offset), offset)
                    os.pwrite(write.fileno(), data[number:] + data[:number], offset)
            write.truncate(size_bytes)
        disks.append(path)
    return disks


def main(argv: Sequence[str] | None = None) -> int:
    """Print the peaks; exit code 1 where one is above the aim."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=parse_size, default=GIB, metavar="SIZE", help="of each disk (1G)")
    parser.add_argument("--disks", type=int, default=8, metavar="N", help="at once (8)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there (-: to standard output)")
    parser.add_argument("--workdir", type=Path, metavar="DIR", help="where disks and repository lie for the time of it")
    args = parser.parse_args(argv)
    workdir = Path(tempfile.mkdtemp(prefix="vbrbench-", dir=args.workdir or "/var/tmp"))  # noqa: S108 - large, on a disk
    try:
        peaks = asyncio.run(measure(workdir, make_disks(workdir, args.size, args.disks)))
    finally:
        shutil.rmtree(workdir, ignore_errors=True)
    document = msgspec.json.format(msgspec.json.encode(peaks), indent=1).decode()
    if str(args.json) == "-":
        print(document)
    else:
        if args.json is not None:
            args.json.write_text(document + "\n", encoding="ascii")
        print(_text(peaks))
    return 0 if peaks.met else 1


def _text(peaks: Peaks) -> str:
    sources = sorted(peaks.source_peak_bytes)
    rows = [
        ("source mover, highest", f"{sources[-1] / MIB:.1f}", f"{SOURCE_AIM_BYTES / MIB:.0f}"),
        ("source mover, lowest", f"{sources[0] / MIB:.1f}", f"{SOURCE_AIM_BYTES / MIB:.0f}"),
        ("target mover", f"{peaks.target_peak_bytes / MIB:.1f}", f"{TARGET_AIM_BYTES / MIB:.0f}"),
    ]
    return table((f"{peaks.disks} disks of {peaks.size_bytes / MIB:.0f} MiB at once", "peak MiB", "aim MiB"), rows)


if __name__ == "__main__":
    sys.exit(main())
