"""What files a virtual disk consists of, and whether they all lie where they may.

A guest writes what it likes into its disk, and a stranger may have made an image. So the format follows the name (or
the image that names a backing file), never the content; headers are read by qemu-img under limits and without
following; and every file that would be opened is resolved and judged before anything opens it.
"""

import os
import re
import stat
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from vbrcore.model.errors import ImageEscapesDirectory, ImageInvalid
from vbrcore.plugins.programs import run_qemu_img

# File-name ending -> QEMU's name of the format.
ENDINGS = {".raw": "raw", ".img": "raw", ".qcow2": "qcow2", ".vmdk": "vmdk", ".vhd": "vpc", ".vhdx": "vhdx"}
FORMATS = frozenset(ENDINGS.values())

_MAX_DEPTH = 64
_DESCRIPTOR_BYTES = (1 << 20) - 1  # as much as QEMU reads of a VMDK descriptor
_VMDK_SPARSE_HEADER = struct.Struct("<4sIIQQQQ")
_SECTOR_BYTES = 512
_EXTENT_LINE = re.compile(
    rb'^\s*(?:RW|RDONLY|NOACCESS)\s+(\d{1,18})\s+(\w+)\s+"([^"\r\n]*)"(?:\s+(\d{1,18}))?', re.IGNORECASE
)
_PARENT_LINE = re.compile(rb'^\s*parentFileNameHint\s*=\s*"([^"\r\n]*)"', re.IGNORECASE)
_GUEST_CONTENT = re.compile(r"-(flat|f\d+)\.vmdk$", re.IGNORECASE)


class VmdkExtent(msgspec.Struct, frozen=True):
    """A line of a VMDK descriptor that names a file. `needs_bytes`: how long a flat file must be (0: unknown)."""

    name: str
    kind: str
    needs_bytes: int


class ImageFile(msgspec.Struct, frozen=True):
    """An image with everything below it. All paths are real paths of regular files."""

    path: str
    format: str
    size_bytes: int
    extents: tuple[str, ...] = ()
    data_file: str = ""
    backing: "ImageFile | None" = None

    def files(self) -> Iterator[str]:
        """Yield every file that is read when this image is read."""
        yield self.path
        yield from self.extents
        if self.data_file:
            yield self.data_file
        if self.backing is not None:
            yield from self.backing.files()

    def node(self) -> dict[str, Any]:
        """Return it as a block node of QEMU with every format and file said, so that QEMU need not guess."""
        node: dict[str, Any] = {"driver": self.format, "file": {"driver": "file", "filename": self.path}}
        if self.data_file:
            node["data-file"] = {"driver": "file", "filename": self.data_file}
        if self.format in {"qcow2", "vmdk"}:
            node["backing"] = self.backing.node() if self.backing is not None else None
        return node


def format_of(name: str) -> str | None:
    """Return the format that a file name says, or None."""
    return ENDINGS.get(Path(name).suffix.lower())


def inspect(path: str, image_format: str, directory: str | None) -> ImageFile:
    """Read an image's headers and those of the images below it.

    Everything must resolve inside `directory` (None: anywhere, the caller vouches). Raises `ImageInvalid`,
    `ImageEscapesDirectory`.
    """
    return _inspect(path, image_format, directory, ())


def references(path: str, image_format: str) -> set[str]:
    """Return the paths that an image names as backing file, extents and data file; nothing below is opened.

    Files that hold a guest's bytes as they are name nothing, whatever they contain: else a guest could make a
    sibling disk look like a part of its own.
    """
    if image_format == "vmdk":
        if _GUEST_CONTENT.search(path):
            return set()
        lines = _vmdk_descriptor(path)
        names = [extent.name for extent in _vmdk_extents(lines)] + _vmdk_parents(lines)
    elif image_format == "qcow2":
        info = _info(path, image_format)
        names = [info.backing, info.data_file]
    else:
        return set()
    return {os.path.realpath(Path(path).parent / name) for name in names if name} - {path}


class _Info(msgspec.Struct, frozen=True):
    size_bytes: int
    backing: str
    backing_format: str
    data_file: str


def _inspect(path: str, image_format: str, directory: str | None, above: tuple[str, ...]) -> ImageFile:
    real = _judge(path, directory, above[-1] if above else "")
    if image_format not in FORMATS:
        raise ImageInvalid(f"{path}: format {image_format!r} is not supported")
    if real in above or len(above) >= _MAX_DEPTH:
        raise ImageInvalid(f"{above[0]}: its backing files form a ring or a chain of more than {_MAX_DEPTH}")
    if image_format == "raw":
        return ImageFile(real, "raw", Path(real).stat().st_size)
    extents = tuple(_vmdk_files(real, directory, 0)) if image_format == "vmdk" else ()
    if image_format == "vpc":
        _check_vhd_end(real)
    info = _info(real, image_format)
    backing = None
    if info.backing:
        backing_format = info.backing_format or ("vmdk" if image_format == "vmdk" else format_of(info.backing))
        if backing_format is None:
            raise ImageInvalid(f"{real}: the format of its backing file {info.backing!r} is not known")
        name = _beside(real, info.backing, "backing file")
        backing = _inspect(name, backing_format, directory, (*above, real))
    data_file = _judge(_beside(real, info.data_file, "data file"), directory, real) if info.data_file else ""
    return ImageFile(real, image_format, info.size_bytes, extents, data_file, backing)


def _judge(path: str, directory: str | None, named_by: str) -> str:
    """Return the real path of a regular file that may be opened."""
    real = os.path.realpath(path)
    by = f" (named by {named_by})" if named_by else ""
    if directory is not None and os.path.commonpath([real, inside := os.path.realpath(directory)]) != inside:
        raise ImageEscapesDirectory(f"{path}{by} lies outside of {directory}")
    try:
        mode = Path(real).stat().st_mode
    except OSError as error:
        raise ImageInvalid(f"{path}{by} cannot be opened: {error.strerror}") from error
    if not stat.S_ISREG(mode):
        raise ImageInvalid(f"{path}{by} is no regular file")
    return real


def _beside(image: str, name: str, what: str) -> str:
    """Return the path of a file that an image names, relative to the image. Protocols (`nbd:`, `json:`) are refused."""
    if ":" in name.split("/", 1)[0] or "\0" in name:
        raise ImageEscapesDirectory(f"{image} names the {what} {name[:200]!r}, which is no plain file")
    return str(Path(image).parent / name)


def _info(path: str, image_format: str) -> _Info:
    _, text = run_qemu_img(["info", "--output=json", "--force-share", "-f", image_format, "--", path])
    try:
        found = msgspec.json.decode(text)
        specific = found.get("format-specific", {}).get("data", {})
        return _Info(
            found["virtual-size"],
            found.get("backing-filename", ""),
            found.get("backing-filename-format", ""),
            specific.get("data-file", ""),
        )
    except (msgspec.DecodeError, msgspec.ValidationError, KeyError, AttributeError) as error:
        raise ImageInvalid(f"{path}: qemu-img info gave no usable description") from error


def _vmdk_files(path: str, directory: str | None, depth: int) -> Iterator[str]:
    """Yield the extents of a VMDK, judged; sparse extents may name further ones."""
    if depth > 2:
        raise ImageInvalid(f"{path}: its extents name extents of their own")
    lines = _vmdk_descriptor(path)
    for parent in _vmdk_parents(lines):
        _judge(_beside(path, parent, "backing file"), directory, path)
    for extent in _vmdk_extents(lines):
        real = _judge(_beside(path, extent.name, "extent"), directory, path)
        if Path(real).stat().st_size < extent.needs_bytes:
            raise ImageInvalid(f"{real} (named by {path}) is truncated: {extent.needs_bytes} bytes are needed")
        yield real
        if extent.kind not in {"FLAT", "VMFS"}:
            yield from _vmdk_files(real, directory, depth + 1)


def _vmdk_descriptor(path: str) -> list[bytes]:
    """Return the lines of the descriptor that QEMU would follow: the file itself, or what its header points to."""
    try:
        with open(path, "rb", opener=_open_plain) as file:
            head = file.read(_VMDK_SPARSE_HEADER.size)
            if head[:4] == b"COWD":
                return []
            start = 0
            if head[:4] == b"KDMV" and len(head) == _VMDK_SPARSE_HEADER.size:
                *_, capacity, _, descriptor, _ = _VMDK_SPARSE_HEADER.unpack(head)
                if capacity or descriptor >= 1 << 50:
                    return []
                start = descriptor * _SECTOR_BYTES
            file.seek(start)
            return file.read(_DESCRIPTOR_BYTES).split(b"\n")
    except OSError as error:
        raise ImageInvalid(f"{path} cannot be read: {error.strerror}") from error


def _open_plain(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY)


def _vmdk_extents(lines: list[bytes]) -> list[VmdkExtent]:
    found = []
    for line in lines:
        if match := _EXTENT_LINE.match(line):
            sectors, kind, name, offset = match.groups()
            flat = kind.upper() in {b"FLAT", b"VMFS"}
            needs = (int(sectors) + int(offset or 0)) * _SECTOR_BYTES if flat else 0
            found.append(VmdkExtent(os.fsdecode(name), kind.decode().upper(), needs))
    return found


def _vmdk_parents(lines: list[bytes]) -> list[str]:
    return [os.fsdecode(match.group(1)) for line in lines if (match := _PARENT_LINE.match(line))]


def _check_vhd_end(path: str) -> None:
    """A VHD ends with its footer; QEMU is content with the copy at the start, and reads what is cut off as zeros."""
    try:
        with open(path, "rb", opener=_open_plain) as file:
            size = os.fstat(file.fileno()).st_size
            file.seek(max(0, size - _SECTOR_BYTES))
            end = file.read(8)
    except OSError as error:
        raise ImageInvalid(f"{path} cannot be read: {error.strerror}") from error
    if end != b"conectix":
        raise ImageInvalid(f"{path} is truncated: it does not end with the footer of a VHD")
