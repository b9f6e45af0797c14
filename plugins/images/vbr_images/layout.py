"""Which files of a directory are machines and disks."""

import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec

from vbrcore.model.errors import ImageEscapesDirectory, ImageInvalid
from vbrcore.plugins.imagechain import format_of, inspect, references

_AT_ONCE = 4  # programs that read headers at the same time


class FoundDisk(msgspec.Struct, frozen=True):
    """An image file that is a disk. `files` are all files it is read from; only itself where it cannot be opened."""

    path: Path
    format: str
    size_bytes: int
    files: tuple[str, ...]


class FoundMachine(msgspec.Struct, frozen=True):
    """`machine_id` is the name in the directory: of the sub-directory, or of the image file with its ending."""

    machine_id: str
    name: str
    directory: Path
    images: tuple[Path, ...]


def find_machines(root: Path) -> list[FoundMachine]:
    """Sub-directories and image files that are no part of another image, by name. Hidden ones are passed over."""
    directories = [entry for entry in _visible(root) if entry.is_dir()]
    single = _disks_only(_images(root))
    # A file beside a directory (or another file) of the same name keeps its ending, so that names stay distinct.
    taken = [entry.name for entry in directories] + [path.stem for path in single]
    found = [FoundMachine(entry.name, entry.name, entry, tuple(_disks_only(_images(entry)))) for entry in directories]
    for path in single:
        name = path.stem if taken.count(path.stem) == 1 else path.name
        found.append(FoundMachine(path.name, name, root, (path,)))
    return sorted(found, key=lambda machine: machine.machine_id)


def examine(machine: FoundMachine) -> list[FoundDisk]:
    """Read the headers of a machine's disks. One that cannot be opened has size 0: the mover will say why."""
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return list(pool.map(lambda path: _examine(path, machine.directory), machine.images))


def _examine(path: Path, directory: Path) -> FoundDisk:
    image_format = format_of(path.name) or "raw"
    try:
        image = inspect(str(path), image_format, str(directory))
    except (ImageInvalid, ImageEscapesDirectory):
        return FoundDisk(path, image_format, 0, (str(path),))
    return FoundDisk(path, image_format, image.size_bytes, tuple(dict.fromkeys(image.files())))


def _visible(directory: Path) -> Iterator[Path]:
    return (entry for entry in sorted(directory.iterdir()) if not entry.name.startswith("."))


def _images(directory: Path) -> list[Path]:
    return [entry for entry in _visible(directory) if format_of(entry.name) and not entry.is_dir()]


def _disks_only(images: Iterable[Path]) -> list[Path]:
    images = list(images)
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        parts = set().union(*pool.map(_parts, images))
    return [path for path in images if os.path.realpath(path) not in parts]


def _parts(path: Path) -> set[str]:
    try:
        return references(os.path.realpath(path), format_of(path.name) or "raw")
    except ImageInvalid:
        return set()
