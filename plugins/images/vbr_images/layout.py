"""Which files of a directory are machines and disks."""

import os
from collections.abc import Iterator
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
    image: Path | None = None  # the one disk of a machine without a sub-directory


def find_machines(root: Path) -> list[FoundMachine]:
    """Sub-directories and image files that are no part of another image, by name. Hidden ones are passed over."""
    directories = [entry for entry in _visible(root) if entry.is_dir()]
    images = _disks_only(_images(root))
    # A file beside a directory (or another file) of the same name keeps its ending, so that names stay distinct.
    names = [entry.name for entry in directories] + [path.stem for path in images]
    found = [FoundMachine(entry.name, entry.name, entry) for entry in directories]
    found += [
        FoundMachine(path.name, path.stem if names.count(path.stem) == 1 else path.name, root, path) for path in images
    ]
    return sorted(found, key=lambda machine: machine.machine_id)


def find_machine(root: Path, machine_id: str, name: str) -> FoundMachine | None:
    """Find one machine without looking at the others."""
    path = root / machine_id
    if path.name != machine_id or machine_id.startswith("."):
        return None
    if path.is_dir():
        return FoundMachine(machine_id, name, path)
    if format_of(machine_id) and os.path.lexists(path):
        return FoundMachine(machine_id, name, root, path)
    return None


def examine(machine: FoundMachine) -> list[FoundDisk]:
    """Read the headers of a machine's disks. One that cannot be opened has size 0: the mover will say why.

    Raises `ImageInvalid` if the machine's directory cannot be read.
    """
    try:
        images = [machine.image] if machine.image is not None else _disks_only(_images(machine.directory))
    except OSError as error:
        raise ImageInvalid(f"{machine.directory} cannot be read: {error.strerror}") from error
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return list(pool.map(lambda path: _examine(path, machine.directory), images))


def _examine(path: Path, directory: Path) -> FoundDisk:
    image_format = format_of(path.name) or "raw"
    try:
        image = inspect(str(path), image_format, str(directory))
    except (ImageInvalid, ImageEscapesDirectory):
        return FoundDisk(path, image_format, 0, (str(path),))
    return FoundDisk(path, image_format, image.size_bytes, tuple(dict.fromkeys(image.files())))


def _visible(directory: Path) -> Iterator[Path]:
    return (
        entry for entry in sorted(directory.iterdir()) if not entry.name.startswith(".") and entry.name != "lost+found"
    )


def _images(directory: Path) -> list[Path]:
    return [entry for entry in _visible(directory) if format_of(entry.name) and not entry.is_dir()]


def _disks_only(images: list[Path]) -> list[Path]:
    """Leave out the files that others of them name as their parts."""
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        parts = set().union(*pool.map(_parts, images))
    return [path for path in images if os.path.realpath(path) not in parts]


def _parts(path: Path) -> set[str]:
    try:
        return references(os.path.realpath(path), format_of(path.name) or "raw")
    except ImageInvalid:
        return set()
