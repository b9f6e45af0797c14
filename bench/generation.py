"""A generation of ten million blocks: memory of the target mover, lookups, mark, opening and listing points.

    .venv/bin/python bench/generation.py                       10 million blocks, 10,000 points: about ten minutes
    .venv/bin/python bench/generation.py --blocks 1000000 --json -

The digests are made up and the blocks' extents are holes of sparse files; tables, maps, contents lists and the index
are real, written by the package itself. Three points, of three machines, reach every block, by maps without a page in
common; 3 % of the rows are reached by no point. Each step runs in a process of its own, whose anonymous memory is
sampled. Beside each figure stands what the machine can do at best: bare gets of the index's database for the lookups,
reading and verifying the maps' pages for the mark, a command that lists nothing for the listing.
"""

import argparse
import json
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

import lmdb
import msgspec
from blake3 import blake3

from bench.harness import MIB, spread
from bench.ours import Deployment
from bench.process import measure, prepare, run
from vbrcore.backupfile.codec import CODEC_NONE, DIGEST_BYTES, checksum, digest
from vbrcore.backupfile.filewriter import FileWriter
from vbrcore.backupfile.maps import PAGE_BYTES, PageBuilder, leaves, pages
from vbrcore.backupfile.rows import HEADER_BYTES, KIND_PAGE, Row, pack_row
from vbrcore.catalog.catalog import Catalog
from vbrcore.chain.files import read_files
from vbrcore.chain.ledger import Ledger, Run
from vbrcore.chain.listing import read_points
from vbrcore.chain.mark import mark
from vbrcore.chain.reader import ChainReader
from vbrcore.chain.view import View
from vbrcore.chain.writer import HAVE, ChainWriter
from vbrcore.model.ids import new_id
from vbrcore.model.point import Point, PointDisk
from vbrcore.storage.local import LocalStorage

T = TypeVar("T")

BLOCK_BYTES: Final = MIB
STORED_BYTES: Final = 400 * 1024 - HEADER_BYTES
MACHINES: Final = 3
DEAD_EVERY: Final = 32
LIST_DIRECTORY: Final = "listed"
DIRECTORY: Final = "generation"
MEMORY_AIM_BYTES: Final = 256 * MIB
LOOKUP_AIM: Final = 100_000
POINT_AIM_S: Final = 1.0
LIST_AIM_S: Final = 1.0
_LOOKUP_BATCH: Final = 64
_NAMES: Final = "looked-up"


# --- the chain -----------------------------------------------------------------------------------------


def build(storage: LocalStorage, blocks: int, files: int) -> None:
    """Write a generation of `files` files; its points stand in the last one."""
    ledger = Ledger(storage, DIRECTORY, Run("bench", "bench", "bench", 1_700_000_000.0, BLOCK_BYTES), lambda: None)
    names = blake3(b"generation").digest(blocks * DIGEST_BYTES)
    step = -(-blocks // files)
    for first in range(0, blocks, step):
        of_file = memoryview(names)[first * DIGEST_BYTES : (first + step) * DIGEST_BYTES]
        file = ledger.new_file()
        rows = _sparse_rows(file, of_file)
        points: tuple[Point, ...] = ()
        if first + step >= blocks:
            more, points = _maps(file, names)
            rows += more
        _seal(ledger, file, rows, points)


def _sparse_rows(file: FileWriter, names: memoryview) -> list[bytes]:
    """Return rows of extents that nobody has written; one in `DEAD_EVERY` is reached by no map."""
    count = len(names) // DIGEST_BYTES
    live = [bytes(names[i : i + DIGEST_BYTES]) for i in range(0, len(names), DIGEST_BYTES)]
    dead = blake3(names).digest(count // DEAD_EVERY * DIGEST_BYTES)
    place = file.end
    rows = []
    for number, name in enumerate(live):
        rows.append(_block_row(name, place))
        place += STORED_BYTES + HEADER_BYTES
        if number % DEAD_EVERY == DEAD_EVERY - 1:
            other = number // DEAD_EVERY * DIGEST_BYTES
            rows.append(_block_row(dead[other : other + DIGEST_BYTES], place))
            place += STORED_BYTES + HEADER_BYTES
    file.end = place
    return rows


def _block_row(name: bytes, offset: int) -> bytes:
    return pack_row(Row(name, STORED_BYTES, BLOCK_BYTES, CODEC_NONE, 0, 0), offset)


def _maps(file: FileWriter, names: bytes) -> tuple[list[bytes], tuple[Point, ...]]:
    """Write the maps of all machines: the same blocks, in orders that leave no page alike."""
    rows: list[bytes] = []
    points = []
    size_bytes = len(names) // DIGEST_BYTES * BLOCK_BYTES
    for machine in range(MACHINES):
        turn = machine * (len(names) // MACHINES // PAGE_BYTES * PAGE_BYTES + DIGEST_BYTES)
        leaf_bytes = names[turn:] + names[:turn]
        builder = PageBuilder(size_bytes, BLOCK_BYTES)
        for first in range(0, len(leaf_bytes), PAGE_BYTES):
            page = leaf_bytes[first : first + PAGE_BYTES].ljust(PAGE_BYTES, b"\0")
            name = digest(page)
            rows.append(_write_page(file, name, page))
            above = builder.add_subtree(name, 1) if len(leaf_bytes) > PAGE_BYTES else []
            rows += [_write_page(file, *other) for other in above]
        rest, root = builder.finish() if len(leaf_bytes) > PAGE_BYTES else ([], name)
        rows += [_write_page(file, *other) for other in rest]
        points.append(_point(machine, machine + 1, (PointDisk("d0", "disk", size_bytes, root),)))
    return rows, tuple(points)


def _write_page(file: FileWriter, name: bytes, page: bytes) -> bytes:
    row = Row(name, PAGE_BYTES, PAGE_BYTES, CODEC_NONE, KIND_PAGE, checksum(page))
    return pack_row(row, file.write_extent(row, page))


def _point(machine: int, sequence: int, disks: tuple[PointDisk, ...]) -> Point:
    return Point(
        point_id=new_id(),
        session_id=new_id(),
        job_id="bench",
        job_name="bench",
        plugin="images",
        machine_id=f"machine-{machine}",
        machine=f"machine-{machine}",
        kind="increment",
        created=1_700_000_000.0 + sequence * 60,
        sequence=sequence,
        disks=disks,
        block_size_bytes=BLOCK_BYTES,
    )


def _seal(ledger: Ledger, file: FileWriter, rows: list[bytes], points: tuple[Point, ...]) -> None:
    rows.sort()
    tables = (file.write_table(rows, len(rows)),) if rows else ()
    file.commit(ledger.contents(points, tables), sealed=True, both=True)
    ledger.note(file.file)
    file.close()


def build_points(storage: LocalStorage, count: int, files: int) -> None:
    """Write a chain that is nothing but points, evenly in its files."""
    run = Run("bench", "bench", "bench", 1_700_000_000.0, BLOCK_BYTES)
    ledger = Ledger(storage, LIST_DIRECTORY, run, lambda: None)
    step = -(-count // files)
    disks = tuple(PointDisk(f"scsi0:{n}", f"scsi0:{n}", 64 << 30, bytes(DIGEST_BYTES)) for n in range(2))
    for first in range(0, count, step):
        points = tuple(_point(n % 100, n + 1, disks) for n in range(first, min(count, first + step)))
        _seal(ledger, ledger.new_file(), [], points)


# --- the steps, each in a process of its own -----------------------------------------------------------


def open_writer(workdir: Path) -> ChainWriter:
    return ChainWriter.open(
        LocalStorage(workdir / "repository"),
        DIRECTORY,
        job_id="bench",
        job_name="bench",
        session_id=new_id(),
        created=1_700_000_000.0,
        block_size_bytes=BLOCK_BYTES,
        index_directory=workdir / "index",
    )


def step_open(workdir: Path, _times: int) -> dict[str, Any]:
    """Open the chain as a target mover does: without an index at first, then with it."""
    writer, first = timed(lambda: open_writer(workdir))
    index_bytes = sum(path.stat().st_size for path in (workdir / "index").rglob("data.mdb"))
    writer.close()
    writer, again = timed(lambda: open_writer(workdir))
    writer.close()
    return {"without_index": as_dict(first), "with_index": as_dict(again), "index_bytes": index_bytes}


def step_lookup(workdir: Path, times: int) -> dict[str, Any]:
    """Look digests up in batches, nine in ten of them known, beside bare gets of the same in the same database."""
    writer = open_writer(workdir)
    names = _sample(writer, 400_000)
    (workdir / _NAMES).write_bytes(b"".join(names))
    batches = [names[i : i + _LOOKUP_BATCH] for i in range(0, len(names), _LOOKUP_BATCH)]
    ours, bare = [], []
    for _ in range(times):
        answers, taken = timed(lambda: [writer.lookup(batch, 1) for batch in batches])
        writer.release_owner(1)
        ours.append(taken)
        bare.append(msgspec.json.decode(run(_step("bare", workdir, times)), type=Taken))
    writer.close()
    return {
        "lookups": rates(len(names), ours),
        "bare_gets": rates(len(names), bare),
        "batch": _LOOKUP_BATCH,
        "digests": len(names),
        "known": sum(answer.count(HAVE) for answer in answers),
    }


def _sample(writer: ChainWriter, count: int) -> list[bytes]:
    """Return digests from all over the maps in a random order, one in ten of them in no file."""
    chance = random.Random(5)  # noqa: S311
    point = writer.points[0]
    disk = point.disks[0]
    every = max(1, disk.size_bytes // BLOCK_BYTES // count)
    found = leaves(disk.root, disk.size_bytes, BLOCK_BYTES, writer.page)
    names = [name for index, name in found if index % every == 0][:count]
    names[::10] = [chance.randbytes(DIGEST_BYTES) for _ in names[::10]]
    chance.shuffle(names)
    return names


def step_bare(workdir: Path, _times: int) -> dict[str, Any]:
    """Get the same from the same database, with nothing else to do."""
    data = (workdir / _NAMES).read_bytes()
    names = [data[i : i + DIGEST_BYTES] for i in range(0, len(data), DIGEST_BYTES)]
    path = next((workdir / "index").rglob("data.mdb")).parent
    with lmdb.open(str(path), max_dbs=2, readonly=True, readahead=False) as environment:
        rows = environment.open_db(b"rows", create=False)

        def get_all() -> None:
            for first in range(0, len(names), _LOOKUP_BATCH):
                with environment.begin(db=rows) as transaction:
                    for name in names[first : first + _LOOKUP_BATCH]:
                        transaction.get(name)

        return as_dict(timed(get_all)[1])


def step_mark(workdir: Path, _times: int) -> dict[str, Any]:
    """Mark all points, beside reading and verifying their pages."""
    writer = open_writer(workdir)
    view = View(writer._upkeep, writer._ledger.generation_id, writer._index)  # noqa: SLF001
    points = view.points

    def read_pages() -> int:
        disks = [(disk, point.block_size_bytes) for point in points for disk in point.disks]
        return sum(1 for disk, size in disks for _ in pages(disk.root, disk.size_bytes, size, view.fetch))

    count, pages_only = timed(read_pages)
    reached, taken = timed(lambda: mark(points, view.fetch, view.rows))
    strangers = random.Random(6)  # noqa: S311
    wrong = sum(strangers.randbytes(DIGEST_BYTES) in reached for _ in range(100_000)) / 100_000
    entries = sum(disk.size_bytes // BLOCK_BYTES for point in points for disk in point.disks)
    writer.close()
    return {
        "entries": entries,
        "pages": count,
        "mark": as_dict(taken),
        "pages_only": as_dict(pages_only),
        "wrong_part": wrong,
    }


def step_give_back(workdir: Path, _times: int) -> dict[str, Any]:
    """Give back what no point needs."""
    writer = open_writer(workdir)
    done, taken = timed(lambda: writer.give_back("punch", force=True))
    writer.close()
    files = read_files(LocalStorage(workdir / "repository"), DIRECTORY).files
    gone_rows = sum(file.gone.count(bytes([value])) * value.bit_count() for file in files for value in range(1, 256))
    warnings = done.warnings if done is not None else []
    return {"give_back": as_dict(taken), "warnings": warnings, "gone_rows": gone_rows}


def step_point(workdir: Path, times: int) -> dict[str, Any]:
    """Open the chain for reading, find a point, read its first page and block name."""
    storage = LocalStorage(workdir / "repository")

    def first_leaf() -> None:
        with ChainReader.open(storage, DIRECTORY) as reader:
            point = reader.point(reader.points[-1].point_id)
            next(reader.leaves(point, point.disks[0]))

    return {"open_point": repeated(first_leaf, times)}


def step_read_points(workdir: Path, times: int) -> dict[str, Any]:
    """Read all points from their files."""
    storage = LocalStorage(workdir / "repository")
    count = len(read_points(storage, LIST_DIRECTORY))
    return {"points": count, "read_points": repeated(lambda: read_points(storage, LIST_DIRECTORY), times)}


STEPS: Final[dict[str, Callable[[Path, int], dict[str, Any]]]] = {
    "open": step_open,
    "lookup": step_lookup,
    "bare": step_bare,
    "mark": step_mark,
    "point": step_point,
    "read_points": step_read_points,
    "give_back": step_give_back,
}


def list_points(workdir: Path, times: int) -> dict[str, Any]:
    """List points with the command, from the service, as JSON and as a table; beside a list of nothing.

    CPU time is that of both, command and service.
    """
    deployment = Deployment(workdir / "home")
    machines = workdir / "machines"
    machines.mkdir()
    deployment.images_job(machines, workdir / "other")
    try:
        catalog = Catalog.open(workdir / "home")
        points = read_points(LocalStorage(workdir / "repository"), LIST_DIRECTORY)
        repository_id = catalog.repository_by_name("main").repository_id
        catalog.replace_points(repository_id, catalog.job_by_name("bench").job_id, LIST_DIRECTORY, points)
        catalog.close()
        listed = json.loads(deployment.run("point", "list", "--job", "bench", "--json"))
        if len(listed) != len(points):
            raise ValueError(f"{len(listed)} of {len(points)} points are listed")
        runs = {
            "json": ("point", "list", "--job", "bench", "--json"),
            "table": ("point", "list", "--job", "bench"),
            "nothing": ("session", "list", "--json"),
        }
        taken: dict[str, list[Taken]] = {name: [] for name in runs}
        for _ in range(times):
            for name, arguments in runs.items():
                command = deployment.command(*arguments)
                usage = measure(command, scratch=workdir, env=deployment.environment).usage
                taken[name].append(Taken(usage.wall_s, usage.cpu_s))
    finally:
        deployment.close()
    return {"points": len(listed), **{name: spreads(each) for name, each in taken.items()}}


class Taken(msgspec.Struct, frozen=True):
    """Seconds on the wall, and of this process' CPU time: the latter is what counts where others use the machine."""

    wall_s: float
    cpu_s: float


def timed(work: Callable[[], T]) -> tuple[T, Taken]:
    """Return what `work` returns, and what it took."""
    started, cpu = time.perf_counter(), time.process_time()
    done = work()
    return done, Taken(round(time.perf_counter() - started, 4), round(time.process_time() - cpu, 4))


def repeated(work: Callable[[], object], times: int) -> dict[str, Any]:
    return spreads([timed(work)[1] for _ in range(times)])


def spreads(taken: Sequence[Taken]) -> dict[str, Any]:
    return as_dict({"wall_s": spread([one.wall_s for one in taken]), "cpu_s": spread([one.cpu_s for one in taken])})


def rates(count: int, taken: Sequence[Taken]) -> dict[str, Any]:
    return as_dict(
        {
            "per_s": spread([round(count / one.wall_s) for one in taken]),
            "per_cpu_s": spread([round(count / max(one.cpu_s, 1e-4)) for one in taken]),
        }
    )


def as_dict(value: object) -> dict[str, Any]:
    figures: dict[str, Any] = msgspec.to_builtins(value)
    return figures


def _step(name: str, workdir: Path, times: int) -> list[str]:
    return [sys.executable, __file__, "--step", name, "--workdir", str(workdir), "--times", str(times)]


def run_steps(workdir: Path, wanted: Sequence[str], times: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the figures of each step with the highest anonymous memory of its process."""
    for name in wanted:
        done = measure(_step(name, workdir, times), scratch=workdir)
        yield name, {**json.loads(done.output), "peak_bytes": done.usage.peak_memory_bytes}


def aims(figures: dict[str, Any]) -> dict[str, bool]:
    """Say of each figure that has an aim whether it is met."""
    steps = figures["steps"]
    peaks = [steps[name]["peak_bytes"] for name in ("open", "lookup", "mark", "give_back")]
    return {
        "memory": max(peaks) <= MEMORY_AIM_BYTES,
        "lookups": steps["lookup"]["lookups"]["per_cpu_s"]["median"] >= LOOKUP_AIM,
        "opening a point": steps["point"]["open_point"]["wall_s"]["median"] <= POINT_AIM_S,
        "reading points": steps["read_points"]["read_points"]["wall_s"]["median"] <= LIST_AIM_S,
        "listing points": figures["list"]["json"]["wall_s"]["median"] <= LIST_AIM_S,
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Print the figures; exit code 1 where an aim is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, default=10_000_000)
    parser.add_argument("--files", type=int, default=20)
    parser.add_argument("--points", type=int, default=10_000, help="to list (10,000)")
    parser.add_argument("--point-files", type=int, default=100, help="in which these stand (100)")
    parser.add_argument("--times", type=int, default=5, help="that what is short is repeated (5)")
    parser.add_argument("--workdir", type=Path, metavar="DIR", help="where the chain lies for the time of it")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there (-: to standard output)")
    parser.add_argument("--step", choices=STEPS, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.step:
        print(json.dumps(STEPS[args.step](args.workdir, args.times)))
        return 0
    prepare()
    workdir = Path(tempfile.mkdtemp(prefix="vbrbench-", dir=args.workdir or "/var/tmp"))  # noqa: S108 - large, on a disk
    try:
        (workdir / "repository").mkdir()
        storage = LocalStorage(workdir / "repository")
        _, built = timed(lambda: build(storage, args.blocks, args.files))
        build_points(storage, args.points, args.point_files)
        figures: dict[str, Any] = {"blocks": args.blocks, "files": args.files, "built": as_dict(built), "steps": {}}
        for name, step in run_steps(workdir, [name for name in STEPS if name != "bare"], args.times):
            figures["steps"][name] = step
            print(name, json.dumps(step), file=sys.stderr, flush=True)
        figures["list"] = list_points(workdir, args.times)
    finally:
        shutil.rmtree(workdir, ignore_errors=True)
    figures["met"] = aims(figures)
    document = json.dumps(figures, indent=1)
    if args.json is not None and str(args.json) != "-":
        args.json.write_text(document + "\n", encoding="ascii")
    else:
        print(document)
    return 0 if all(figures["met"].values()) else 1


if __name__ == "__main__":
    sys.exit(main())
