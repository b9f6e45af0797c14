"""The storage port on an SMB share, spoken by this process itself: no mount, no root.

A lock is an open of its file for deletion that shares no deletion: one at a time gets it, others may read and write the
file meanwhile, and the server ends it with the connection. What was open when a connection is lost fails from then on
(`StorageFailed`), and so does everything else: another instance begins anew, with a lock of its own. What is removed
while somebody has it open keeps its name until it is closed.
"""

import contextlib
import functools
import struct
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any, Final

from smbprotocol.exceptions import EndOfFile, NoMoreFiles, SharingViolation
from smbprotocol.file_info import (
    FileAttributes,
    FileDispositionInformation,
    FileEndOfFileInformation,
    FileFsFullSizeInformation,
    FileInformationClass,
    FileRenameInformation,
    FileStandardInformation,
)
from smbprotocol.ioctl import CtlCode
from smbprotocol.open import CreateDisposition, CreateOptions, DirectoryAccessMask, FilePipePrinterAccessMask, Open
from smbprotocol.open import ShareAccess as Sharing

from vbrcore.model.errors import (
    CapabilityMissing,
    ChainLocked,
    InvalidValue,
    NotFound,
    PermissionRefused,
    RepositoryReadOnly,
    StorageFailed,
    VbrError,
)
from vbrcore.model.place import Place
from vbrcore.storage.names import check_name
from vbrcore.storage.port import ALIGNMENT_BYTES, SLOT_BYTES, Buffer, check_aligned, whole_blocks
from vbrcore.storage.smbwire import Wire

_BLOCK_BYTES: Final = frozenset({8192, 16384, 32768, 65536})
_UNDER_WAY: Final = 16  # requests of one call that wait for an answer
_ALL: Final = Sharing.FILE_SHARE_READ | Sharing.FILE_SHARE_WRITE | Sharing.FILE_SHARE_DELETE
_READ: Final = FilePipePrinterAccessMask.FILE_READ_DATA | FilePipePrinterAccessMask.FILE_READ_ATTRIBUTES
_WRITE: Final = _READ | FilePipePrinterAccessMask.FILE_WRITE_DATA | FilePipePrinterAccessMask.FILE_WRITE_ATTRIBUTES
_LOOK: Final = FilePipePrinterAccessMask.FILE_READ_ATTRIBUTES
_NAME: Final = FilePipePrinterAccessMask.DELETE | FilePipePrinterAccessMask.FILE_READ_ATTRIBUTES
_IN_DIRECTORY: Final = (
    DirectoryAccessMask.FILE_LIST_DIRECTORY
    | DirectoryAccessMask.FILE_ADD_FILE
    | DirectoryAccessMask.FILE_ADD_SUBDIRECTORY
    | DirectoryAccessMask.FILE_READ_ATTRIBUTES
)
_FILE: Final = CreateOptions.FILE_NON_DIRECTORY_FILE | CreateOptions.FILE_OPEN_REPARSE_POINT
_DIRECTORY: Final = CreateOptions.FILE_DIRECTORY_FILE | CreateOptions.FILE_OPEN_REPARSE_POINT
_NOT_IN_NAMES: Final = frozenset('\\:*?"<>|') | frozenset(map(chr, range(32)))
_ZERO_DATA: Final = struct.Struct("<QQ")
_DIRECTORY_NOT_EMPTY: Final = "directory not empty"


@contextlib.contextmanager
def _writing() -> Iterator[None]:
    """A permission that is missing for writing means a read-only repository."""
    try:
        yield
    except PermissionRefused as error:
        raise RepositoryReadOnly(str(error)) from error


class SmbAppender:
    """See `port.Appender`."""

    def __init__(self, wire: Wire, handle: Open, alignment_bytes: int) -> None:
        self._wire = wire
        self._handle: Open | None = handle
        self._alignment_bytes = alignment_bytes
        self._failed = False

    def write(self, offset: int, parts: Sequence[Buffer]) -> None:
        handle = self._open()
        under_way: deque[tuple[Any, Any, int]] = deque()
        with _writing(), self._wire.errors(handle.file_name):
            try:
                for data in _pieces(parts, self._wire.write_bytes):
                    message, receive = handle.write(data, offset, send=False)
                    under_way.append((self._wire.send(message), receive, len(data)))
                    offset += len(data)
                    if len(under_way) >= _UNDER_WAY:
                        _written(*under_way.popleft())
                while under_way:
                    _written(*under_way.popleft())
            finally:  # what is still under way must not be written later than what comes next
                for request, receive, _ in under_way:
                    with contextlib.suppress(Exception):
                        receive(request)

    def clone_range(self, source: str, source_offset: int, offset: int, length: int) -> None:
        check_aligned(self._alignment_bytes, source_offset, offset, length)
        self._open()
        raise CapabilityMissing(f"{self._wire.share}: {source}: ranges are not shared over SMB")

    def write_slot(self, offset: int, data: Buffer) -> None:
        if len(data) != SLOT_BYTES:
            raise ValueError(f"a slot has {SLOT_BYTES} bytes")
        self.write(offset, [data])

    def sync(self) -> None:
        handle = self._open()
        try:
            with self._wire.errors(handle.file_name):
                handle.flush()
        except VbrError as error:
            self._failed = True
            raise StorageFailed(str(error)) from error

    def close(self) -> None:
        handle, self._handle = self._handle, None
        if handle is not None:
            self._wire.release(handle)

    def _open(self) -> Open:
        if self._failed or self._handle is None:
            raise StorageFailed(f"{self._wire.share}: not written to after an error or its end")
        return self._handle


class SmbReader:
    """See `port.Reader`."""

    def __init__(self, wire: Wire, handle: Open) -> None:
        self._wire = wire
        self._handle = handle
        self._closed = False

    @property
    def size_bytes(self) -> int:
        return int(self._wire.query(self._handle, FileStandardInformation())["end_of_file"].get_value())

    def read_into(self, offset: int, parts: Sequence[bytearray | memoryview]) -> int:
        if self._closed:
            raise StorageFailed(f"{self._wire.share}: {self._handle.file_name}: not read after its end")
        targets = _targets(parts, self._wire.read_bytes)
        under_way: deque[tuple[Any, Any, memoryview]] = deque()
        done = 0
        with self._wire.errors(self._handle.file_name):
            for target in targets:
                message, receive = self._handle.read(offset, len(target), send=False)
                under_way.append((self._wire.send(message), receive, target))
                offset += len(target)
                if len(under_way) >= _UNDER_WAY:
                    count, whole = _read(*under_way.popleft())
                    done += count
                    if not whole:
                        break
            else:
                while under_way:
                    count, whole = _read(*under_way.popleft())
                    done += count
                    if not whole:
                        break
            for request, receive, _ in under_way:  # behind the file's end
                with contextlib.suppress(EndOfFile):
                    receive(request)
        return done

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._wire.release(self._handle)


class SmbLock:
    """See the module. `held`: the locks of this storage, by path, of which this is one until it is released."""

    def __init__(self, wire: Wire, handle: Open, held: dict[str, Open]) -> None:
        self._wire = wire
        self._handle: Open | None = handle
        self._held = held

    def release(self) -> None:
        handle, self._handle = self._handle, None
        if handle is not None:
            self._held.pop(handle.file_name, None)
            self._wire.release(handle)


class SmbStorage:
    """See `port.Storage`. The connection is made at once: raises `ShareUnreachable`, `ShareRefused`."""

    def __init__(self, place: Place) -> None:
        self._wire = Wire(place)
        self._root = self._wire.share.directory
        self._held: dict[str, Open] = {}

    def close(self) -> None:
        """End the connection; what is open and locked goes with it."""
        self._wire.close()

    @functools.cached_property
    def alignment_bytes(self) -> int:
        info = self._space()
        block_bytes = info["sectors_per_unit"].get_value() * info["bytes_per_sector"].get_value()
        return block_bytes if block_bytes in _BLOCK_BYTES else ALIGNMENT_BYTES

    def create(self, name: str) -> SmbAppender:
        path = self._path(name)
        with _writing():
            try:
                handle = self._open(path, _WRITE, CreateDisposition.FILE_CREATE)
            except NotFound:
                self._make_directories(name)
                handle = self._open(path, _WRITE, CreateDisposition.FILE_CREATE)
        return SmbAppender(self._wire, handle, self.alignment_bytes)

    def modify(self, name: str) -> SmbAppender:
        with _writing():
            handle = self._open(self._path(name), _WRITE)
        return SmbAppender(self._wire, handle, self.alignment_bytes)

    def open_reader(self, name: str) -> SmbReader:
        return SmbReader(self._wire, self._open(self._path(name), _READ))

    def read(self, name: str, offset: int, length: int) -> bytes:
        handle = self._open(self._path(name), _READ)
        reader = SmbReader(self._wire, handle)
        try:
            buffer = bytearray(max(0, min(length, int(handle.end_of_file) - offset)))
            count = reader.read_into(offset, [buffer]) if buffer else 0
            return bytes(memoryview(buffer)[:count])
        finally:
            reader.close()

    def size(self, name: str) -> int:
        with self._handle(name, _LOOK) as handle:
            return int(handle.end_of_file)

    def allocated_bytes(self, name: str) -> int:
        with self._handle(name, _LOOK) as handle:
            return int(self._wire.query(handle, FileStandardInformation())["allocation_size"].get_value())

    def list(self, prefix: str) -> tuple[str, ...]:
        if prefix:
            check_name(prefix)
        names: list[str] = []
        waiting = [prefix.removesuffix("/")]
        while waiting:
            directory = waiting.pop()
            for name, attributes in self._entries(directory):
                full = f"{directory}/{name}" if directory else name
                if not attributes & FileAttributes.FILE_ATTRIBUTE_DIRECTORY:
                    names.append(full)
                elif not attributes & FileAttributes.FILE_ATTRIBUTE_REPARSE_POINT:
                    waiting.append(full)
        return tuple(sorted(names))

    def sync_directory(self, prefix: str) -> None:
        """Flush the directory; a server that knows no such thing writes names at once or never says when."""
        path = self._path(prefix) if prefix else self._root
        with _writing():
            handle = self._open(path, _IN_DIRECTORY, options=_DIRECTORY)
        try:
            with self._wire.errors(path, unable=True), contextlib.suppress(CapabilityMissing):
                handle.flush()
        except CapabilityMissing:
            return
        finally:
            self._wire.release(handle)

    def truncate(self, name: str, size_bytes: int) -> None:
        info = FileEndOfFileInformation()
        info["end_of_file"] = size_bytes
        with _writing(), self._handle(name, _WRITE) as handle:
            self._wire.change(handle, info)

    def punch(self, name: str, offset: int, length: int) -> None:
        start, length = whole_blocks(offset, length, self.alignment_bytes)
        if not length:
            return
        with _writing(), self._handle(name, _WRITE) as handle:
            self._wire.control(handle, CtlCode.FSCTL_SET_SPARSE, b"\x01")
            self._wire.control(handle, CtlCode.FSCTL_SET_ZERO_DATA, _ZERO_DATA.pack(start, start + length))

    def rename(self, name: str, new_name: str) -> None:
        info = FileRenameInformation()
        info["replace_if_exists"] = False
        info["file_name"] = self._path(new_name).replace("/", "\\")
        with _writing(), self._handle(name, _NAME) as handle:
            self._wire.change(handle, info)

    def remove(self, name: str) -> None:
        path = self._path(name)
        held = self._held.get(path.replace("/", "\\"))
        if held is None:
            self._delete(path, _FILE)
        else:  # it goes when the lock is released: nobody can take it in between
            with _writing():
                self._wire.change(held, _deletion())

    def remove_directory(self, prefix: str) -> None:
        try:
            self._delete(self._path(prefix.removesuffix("/")), _DIRECTORY)
        except NotFound:
            return
        except StorageFailed as error:
            if _DIRECTORY_NOT_EMPTY not in str(error):
                raise

    def lock(self, name: str) -> SmbLock:
        path = self._path(name)
        try:
            with _writing():
                try:
                    handle = self._open_lock(path)
                except NotFound:
                    self._make_directories(name)
                    handle = self._open_lock(path)
        except StorageFailed as error:
            if isinstance(error.__cause__, SharingViolation):
                raise ChainLocked(f"{self._wire.share}: {name} is held by another process") from error
            raise
        except NotFound as error:  # removed, and not yet closed
            raise ChainLocked(f"{self._wire.share}: {name} was removed just now") from error
        self._held[handle.file_name] = handle
        return SmbLock(self._wire, handle, self._held)

    def free_bytes(self) -> int:
        info = self._space()
        return self._bytes_of(info, "caller_available_units")

    def capacity_bytes(self) -> int:
        return self._bytes_of(self._space(), "total_allocation_units")

    def make_root(self) -> bool:
        """Make the directory of the share that is the root, where it is absent; say whether it was made."""
        parts = self._root.split("/") if self._root else []
        made = False
        for count in range(1, len(parts) + 1):
            made = self._make_directory("/".join(parts[:count]))
        return made

    def root_names(self) -> tuple[str, ...]:
        """Return what lies in the root itself."""
        return tuple(name for name, _ in self._entries(""))

    def remove_root(self) -> None:
        """Remove the root that `make_root` made, where nothing is in it."""
        if self._root:
            self._delete(self._root, _DIRECTORY)

    def _space(self) -> Any:
        handle = self._open(self._root, _LOOK, options=_DIRECTORY)
        try:
            return self._wire.query(handle, FileFsFullSizeInformation())
        finally:
            self._wire.release(handle)

    def _bytes_of(self, info: Any, units: str) -> int:
        numbers = (info[name].get_value() for name in (units, "sectors_per_unit", "bytes_per_sector"))
        return int(functools.reduce(lambda one, other: one * other, numbers))

    def _entries(self, directory: str) -> Iterator[tuple[str, int]]:
        """Yield names and attributes of a directory; an absent one has none. Raises where it cannot be read."""
        path = self._path(directory) if directory else self._root
        access = DirectoryAccessMask.FILE_LIST_DIRECTORY | DirectoryAccessMask.FILE_READ_ATTRIBUTES
        try:
            handle = self._open(path, access, options=_DIRECTORY)
        except NotFound as error:
            if "not a directory" in str(error):  # it must never look like an empty one
                raise
            return
        try:
            while True:
                with self._wire.errors(path):
                    try:
                        found = handle.query_directory("*", FileInformationClass.FILE_DIRECTORY_INFORMATION)
                    except NoMoreFiles:
                        return
                for entry in found:
                    name = entry["file_name"].get_value().decode("utf-16-le")
                    if name not in {".", ".."}:
                        yield name, entry["file_attributes"].get_value()
        finally:
            self._wire.release(handle)

    def _delete(self, path: str, options: int) -> None:
        with _writing():
            handle = self._open(path, _NAME, options=options)
            try:
                self._wire.change(handle, _deletion())
                with self._wire.errors(path):
                    handle.close()
            except BaseException:
                self._wire.release(handle)
                raise

    def _make_directories(self, name: str) -> None:
        """Make the directories above a file, durable by name; the root itself is never made."""
        parts = name.split("/")[:-1]
        for count in range(1, len(parts) + 1):
            if self._make_directory(self._path("/".join(parts[:count]))):
                above = "/".join(parts[: count - 1])
                self.sync_directory(f"{above}/" if above else "")

    def _make_directory(self, path: str) -> bool:
        disposition = CreateDisposition.FILE_OPEN_IF
        handle = self._open(path, _IN_DIRECTORY, disposition, _DIRECTORY)
        made = handle.create_action == _MADE
        self._wire.release(handle)
        return bool(made)

    def _open_lock(self, path: str) -> Open:
        return self._wire.open(
            path,
            access=_WRITE | _NAME,
            share=Sharing.FILE_SHARE_READ | Sharing.FILE_SHARE_WRITE,
            disposition=CreateDisposition.FILE_OPEN_IF,
            options=_FILE,
        )

    def _open(
        self, path: str, access: int, disposition: int = CreateDisposition.FILE_OPEN, options: int = _FILE
    ) -> Open:
        return self._wire.open(path, access=access, share=_ALL, disposition=disposition, options=options)

    @contextlib.contextmanager
    def _handle(self, name: str, access: int) -> Iterator[Open]:
        handle = self._open(self._path(name), access)
        try:
            yield handle
        finally:
            self._wire.release(handle)

    def _path(self, name: str) -> str:
        """Return where a file lies on the share. Raises `InvalidValue`, also for what a share cannot name."""
        parts = check_name(name).removesuffix("/").split("/")
        if any(_NOT_IN_NAMES & set(part) or part[-1] in ". " for part in parts):
            raise InvalidValue(f"not a name on a share: {name!r}")
        return "/".join((self._root, *parts) if self._root else parts)


_MADE: Final = 2  # FILE_CREATED of the answer to an open


def _deletion() -> FileDispositionInformation:
    info = FileDispositionInformation()
    info["delete_pending"] = True
    return info


def _pieces(parts: Sequence[Buffer], most_bytes: int) -> Iterator[bytes]:
    """Yield the parts one after the other in pieces of `most_bytes`, the last one shorter."""
    gathered: list[memoryview] = []
    length = 0
    for part in parts:
        view = memoryview(part).cast("B")
        while view:
            taken = view[: most_bytes - length]
            gathered.append(taken)
            length += len(taken)
            view = view[len(taken) :]
            if length == most_bytes:
                yield b"".join(gathered)
                gathered, length = [], 0
    if gathered:
        yield b"".join(gathered)


def _targets(parts: Sequence[bytearray | memoryview], most_bytes: int) -> Iterator[memoryview]:
    for part in parts:
        view = memoryview(part).cast("B")
        for start in range(0, len(view), most_bytes):
            yield view[start : start + most_bytes]


def _written(request: Any, receive: Any, length: int) -> None:
    if (count := receive(request)) != length:
        raise ValueError(f"only {count} of {length} bytes were written")


def _read(request: Any, receive: Any, target: memoryview) -> tuple[int, bool]:
    """Put what was read where it belongs; return how much, and whether it was all."""
    try:
        data = receive(request)
    except EndOfFile:
        return 0, False
    target[: len(data)] = data
    return len(data), len(data) == len(target)
