"""Back up one realistic disk and restore it, beside the peers and the limits of this machine.

    .venv/bin/python bench/backup.py                                     4 GiB, 3 rounds, everything
    .venv/bin/python bench/backup.py --size 1G --only vbrcore,limit      a part of it
    .venv/bin/python bench/backup.py --workdir DIR --json figures.json   keep the disk; write all samples

Phases: full; unchanged (the same disk again, read whole by all: nobody is told that nothing changed); changed (2 % of
the disk overwritten); restore of the newest backup, compared byte by byte. Each round runs every contestant once, on
the same file, in a turning order; ratios are taken within a round. A running libvirt domain is backed up once at the
end by virtnbdbackup and by us (--only virtnbdbackup). See docs/benchmarks.md.
"""

import argparse
import os
import platform
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec

from bench import domain, peers
from bench.contestants import Sample
from bench.harness import GIB, MIB, parse_size
from bench.process import prepare, sync
from bench.report import Aim, Line, aims, aims_table, lines_table, summarise
from bench.rounds import DOMAIN_GROUP, Bench, DiskFacts, Skipped


class Figures(msgspec.Struct, frozen=True):
    """All that a run has found: the JSON document."""

    machine: dict[str, str | int]
    disk: DiskFacts
    rounds: int
    samples: tuple[Sample, ...]
    summary: tuple[Line, ...]
    domain_summary: tuple[Line, ...]
    aims: tuple[Aim, ...]
    skipped: tuple[Skipped, ...]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the comparison; print a table and, if asked, write JSON. Exit code 1 where somebody failed half-way."""
    args = _arguments(argv)
    prepare()
    names = set(args.only.split(",")) if args.only else set()
    with _workdir(args.workdir) as workdir:
        bench = Bench(workdir, args.size, lambda name: not names or name in names)
        _warm(workdir, args.size)
        for number in range(args.rounds):
            bench.round(number)
        image_samples = tuple(bench.samples)
        if not names or DOMAIN_GROUP in names:
            bench.domain_round()
        figures = _figures(bench, args.rounds, image_samples)
    if args.json is not None:
        document = msgspec.json.format(msgspec.json.encode(figures), indent=1)
        if str(args.json) == "-":
            print(document.decode())
        else:
            args.json.write_bytes(document + b"\n")
    if str(args.json) != "-":
        _print(figures)
    return int(any(skipped.failed for skipped in figures.skipped))


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=parse_size, default=4 * GIB, metavar="SIZE", help="of the disk (4G)")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="each contestant runs this often (3)")
    parser.add_argument(
        "--only",
        default="",
        metavar="NAMES",
        help="of vbrcore, limit, restic, borg, qemu-img (or: borg nearest), virtnbdbackup",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all samples there (-: to standard output)")
    parser.add_argument("--workdir", type=Path, metavar="DIR", help="where disk and repositories lie; the disk is kept")
    return parser.parse_args(argv)


@contextmanager
def _workdir(given: Path | None) -> Iterator[Path]:
    if given is not None:
        given.mkdir(parents=True, exist_ok=True)
        yield given.resolve()
        return
    with tempfile.TemporaryDirectory(prefix="vbrbench-", dir="/var/tmp") as name:
        path = Path(name)
        path.chmod(0o711)  # a guest's disk lies below
        yield path


def _warm(workdir: Path, size_bytes: int) -> None:
    """Touch as much memory as the run will use: what a virtual machine never used before is slow the first time."""
    available = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    left = min(3 * size_bytes, available // 2)
    path = workdir / "warm"
    chunk = os.urandom(MIB)
    with path.open("wb", buffering=0) as file:
        for _ in range(left // MIB):
            file.write(chunk)
    path.unlink()
    sync(workdir)


def _figures(bench: Bench, rounds: int, image_samples: Sequence[Sample]) -> Figures:
    summary = summarise(image_samples)
    domain_samples = bench.samples[len(image_samples) :]
    return Figures(
        machine=_machine(),
        disk=bench.facts(),
        rounds=rounds,
        samples=tuple(bench.samples),
        summary=tuple(summary),
        domain_summary=tuple(summarise(domain_samples, domain.VbrcoreDomain.name)),
        aims=tuple(aims(summary)),
        skipped=tuple(bench.skipped),
    )


def _machine() -> dict[str, str | int]:
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        platform.machine(),
    )
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    facts: dict[str, str | int] = {"cpu": model, "cores": os.cpu_count() or 1, "memory_bytes": memory}
    return {**facts, "kernel": platform.release(), "python": platform.python_version(), **peers.versions()}


def _print(figures: Figures) -> None:
    disk = figures.disk
    print(
        f"disk: {disk.size_bytes / MIB:.0f} MiB, {disk.allocated_bytes / MIB:.0f} MiB allocated, "
        f"{disk.unique_bytes / MIB:.0f} MiB of unique blocks; {disk.changed_bytes / MIB:.1f} MiB changed; "
        f"{figures.rounds} rounds: median (min..max)\n"
    )
    print(lines_table(figures.summary))
    if figures.domain_summary:
        print("\na running libvirt domain, once:\n")
        print(lines_table(figures.domain_summary))
    print()
    print(aims_table(figures.aims))
    for skipped in figures.skipped:
        print(f"left out: {skipped.contestant}: {skipped.reason}")


if __name__ == "__main__":
    sys.exit(main())
