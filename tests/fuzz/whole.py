"""Targets: whole chains that were spoilt, before readers, writers and the extractor."""

import contextlib
import functools
import importlib.util
import io
import os
import random
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, Final, TypeVar

from tests.fuzz.chains import KEY_FILE, SHAPES, Chain, Sender, chain_of
from tests.fuzz.mutations import mutated
from tests.fuzz.oracle import Unknown, Wrong, expected, look, typed, whole_points
from vbrcore.chain.files import read_files
from vbrcore.chain.writer import ChainWriter
from vbrcore.model.errors import FormatInvalid
from vbrcore.model.point import PointDisk
from vbrcore.storage.capabilities import StorageClass
from vbrcore.testing import chain_kit as kit
from vbrcore.testing.memory_storage import MemoryStorage

EXTRACTOR = Path(__file__).resolve().parents[2] / "extras" / "vbf_extract.py"
T = TypeVar("T")
CLASSES: Final[tuple[StorageClass, ...]] = ("clone", "punch", "copy")


def storage_of(files: dict[str, bytearray], storage_class: StorageClass = "clone") -> MemoryStorage:
    storage = MemoryStorage(storage_class=storage_class)
    storage.files = {name: bytearray(data) for name, data in files.items()}
    return storage


def chain(random: random.Random) -> None:
    """Readers: listing, restore, checks."""
    good = chain_of(random.choice(sorted(SHAPES)))
    files, model = mutated(random, good)
    look(storage_of(files), model)


def writer(random: random.Random) -> None:
    """A writer goes on with spoilt files, and gives back: what was whole stays whole."""
    good = chain_of(random.choice(sorted(SHAPES)))
    files, model = mutated(random, good)
    storage = storage_of(files, random.choice(CLASSES))
    before = whole_points(storage, model) & _whole_by_generation(files, model)
    home = Path(tempfile.mkdtemp(prefix="vbr-fuzz-"))
    forgotten: set[str] = set()
    try:
        for _ in range(2):
            opened = typed(lambda: kit.open_writer(storage, home, encrypt=good.chain_key is not None))
            if opened is None:
                continue
            try:
                _go_on(random, model, opened, storage.storage_class, forgotten)
            finally:
                opened.close()
    finally:
        shutil.rmtree(home)
    after = whole_points(storage, model)
    if lost := before - after - forgotten:
        raise Wrong(f"points that were whole were lost by a writer: {sorted(lost)}")


def _whole_by_generation(files: dict[str, bytearray], model: Chain) -> set[str]:
    """Return the points that are whole in their own generation: that another one has what they lack is luck."""
    found = typed(lambda: read_files(storage_of(files), kit.DIRECTORY))
    generations: dict[bytes, dict[str, bytearray]] = {}
    for file in found.files if found is not None else ():
        generations.setdefault(file.slot.generation_id, {})[file.name] = files[file.name]
    whole = (whole_points(storage_of(names), model) for names in generations.values())
    return set().union(*whole)


def _go_on(
    random: random.Random, model: Chain, opened: ChainWriter, storage_class: StorageClass, forgotten: set[str]
) -> None:
    """Do what a session does, in any order."""
    typed(lambda: opened.damaged)
    for _ in range(random.randint(1, 4)):
        way = random.randrange(6)
        if way == 0:
            image = {0: kit.content(random.randrange(10)), 1: kit.content(2)}
            typed(functools.partial(Sender(model, opened).point, (image, kit.size_of(3))))
        elif way == 1 and opened.points:
            chosen = random.choice(opened.points).point_id
            forgotten.update(typed(functools.partial(opened.forget, [chosen])) or [chosen])
        elif way == 2:
            typed(lambda: opened.give_back(storage_class, force=bool(random.randrange(2))))
        elif way == 3:
            typed(lambda: opened.compact(storage_class, rewrite=bool(random.randrange(2))))
        elif way == 4:
            typed(lambda: opened.synthetic_full(storage_class))
        elif model.key_slots:
            typed(lambda: opened.set_key_slots(model.key_slots * 2))
    typed(opened.seal)


@functools.cache
def _program() -> ModuleType:
    spec = importlib.util.spec_from_file_location("vbf_extract", EXTRACTOR)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _quietly(call: Callable[[], T]) -> T:
    said = io.TextIOWrapper(io.BytesIO(), "utf-8")
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        return call()


def _ended(*arguments: str) -> int:
    """Run the extractor; return its exit code. Every exception is a failure."""
    program = _program()
    program.troubles.clear()
    code: int = _quietly(lambda: program.main(list(arguments)))
    if code not in {0, 1, 2}:
        raise Wrong(f"exit code {code}")
    return code


def _listed(*arguments: str) -> list[Any]:
    """Return the points as the extractor sees them; none where it refuses to."""
    program = _program()
    with contextlib.ExitStack() as stack:
        try:
            return list(_quietly(lambda: program.load(program.parse(["list", *arguments]), stack)))
        except (program.Damage, program.Usage, OSError):
            return []


def extractor(random: random.Random) -> None:
    """The extractor ends with one of its exit codes, and what it writes is what the map names."""
    good = chain_of(random.choice(sorted(SHAPES)))
    files, model = mutated(random, good)
    home = Path(tempfile.mkdtemp(prefix="vbr-fuzz-"))
    try:
        for name, data in files.items():
            (home / Path(name).name).write_bytes(data)
        key_file = home / "key"
        key_file.write_bytes(KEY_FILE)
        arguments = [str(home)]
        if good.chain_key is not None:
            arguments += ["--key-file", str(key_file)]
        _ended(random.choice(("list", "verify")), *arguments)
        points = [point for point in _listed(*arguments) if point.disks]
        if points:
            point = random.choice(points)
            _extract(home / "disk.raw", arguments, point, random.choice(point.disks), model)
    finally:
        shutil.rmtree(home)


def _extract(output: Path, arguments: list[str], point: Any, disk: Any, model: Chain) -> None:
    wanted = ["--point", point.point_id, "--disk", str(disk.number), "--output", str(output)]
    if _ended("extract", *arguments, *wanted) != 0:
        if output.exists():
            raise Wrong("a disk that is not whole was left")
        return
    said = (disk.size_bytes, disk.root)
    known = model.points.get(point.point_id)
    sealed = [(own.size_bytes, own.root) for own in known.disks] if known is not None else []
    if model.chain_key is not None and said not in sealed[disk.number : disk.number + 1]:
        raise Wrong(f"a disk of point {point.point_id} was extracted that nobody with the key has sealed")
    try:
        blocks = expected(PointDisk("", "", *said), point.block_size, model.contents)
    except (Unknown, FormatInvalid) as error:
        raise Wrong(f"point {point.point_id}: extracted though it is not whole") from error
    _compare(output, disk.size_bytes, point.block_size, blocks)


def _compare(output: Path, size_bytes: int, block_size_bytes: int, blocks: dict[int, bytes]) -> None:
    """Compare an image with its blocks by offset; all between is zeros. Holes of the file are passed over."""
    with output.open("rb") as file:
        if os.fstat(file.fileno()).st_size != size_bytes:
            raise Wrong("an image of another size")
        places = set(blocks)
        position = 0
        while True:
            try:
                start = os.lseek(file.fileno(), position, os.SEEK_DATA)
            except OSError:  # nothing but a hole from here on
                break
            position = os.lseek(file.fileno(), start, os.SEEK_HOLE)
            places.update(range(start // block_size_bytes * block_size_bytes, position, block_size_bytes))
        for offset in places:
            length = min(block_size_bytes, size_bytes - offset)
            if os.pread(file.fileno(), length, offset) != blocks.get(offset, bytes(length)):
                raise Wrong(f"other bytes at offset {offset}")
