"""The files of a chain's directory: their names, and what all of them together say."""

import datetime as dt
from collections.abc import Iterable
from typing import Final, Literal

import msgspec

from vbrcore.backupfile.file import BackupFile, open_file, was_never_committed
from vbrcore.model.errors import DataCorrupt, FormatInvalid, NotFound, PermissionRefused, StorageFailed, VbrError
from vbrcore.model.ids import short_id
from vbrcore.model.point import Point
from vbrcore.storage.port import Storage

ENDING: Final = ".vbf"
LOCK_NAME: Final = "chain.lock"
_LOOKS: Final = 8  # at a directory that changes meanwhile

FileKind = Literal["full", "inc", "base"]


class ChainFiles(msgspec.Struct, frozen=True):
    """The readable files of a chain by rank, newest last; `unreadable` are (name, reason that names the file).

    `begun`: names of files that have no first commit yet: they hold nothing that counts, and a writer that lives may be
    about to commit them.
    """

    files: tuple[BackupFile, ...]
    unreadable: tuple[tuple[str, str], ...] = ()
    begun: tuple[str, ...] = ()

    @property
    def newest(self) -> BackupFile | None:
        """The file whose contents list speaks for the newest generation."""
        return self.files[-1] if self.files else None

    def generation(self, generation_id: bytes) -> tuple[BackupFile, ...]:
        return tuple(file for file in self.files if file.slot.generation_id == generation_id)

    def missing(self) -> tuple[str, ...]:
        """Ids of files that a generation should have and that were not found."""
        found = {file.file_id.hex() for file in self.files}
        lists = {file.slot.generation_id: file.contents.generation_files for file in self.files}  # the newest of each
        return tuple(file_id for listed in lists.values() for file_id in listed if file_id not in found)

    def points(self) -> tuple[Point, ...]:
        """All points, oldest first, each once."""
        return sort_points(point for file in self.files for point in file.contents.points)


def sort_points(points: Iterable[Point]) -> tuple[Point, ...]:
    """Order points by sequence; a point that stands in two files (while it is being moved) appears once."""
    return tuple(sorted({point.point_id: point for point in points}.values(), key=lambda point: point.sequence))


def file_names(storage: Storage, directory: str) -> tuple[str, ...]:
    """Return the names of a chain's backup files."""
    prefix = f"{directory}/"
    return tuple(
        name for name in storage.list(prefix) if name.endswith(ENDING) and "/" not in name.removeprefix(prefix)
    )


def read_files(storage: Storage, directory: str, *, pass_over_failed: bool = False) -> ChainFiles:
    """Open all files of a chain. Raises `FormatNewer`: who does not understand a file must not judge its chain.

    A file that the storage fails to read ends it as well, unless `pass_over_failed` (for those who only restore) and
    another can be read.
    """
    for _ in range(_LOOKS):
        names = file_names(storage, directory)
        chain = _read_named(storage, names, pass_over_failed=pass_over_failed)
        # A list may name a file that was made after the names were read: that one is not missing.
        if not chain.missing() or file_names(storage, directory) == names:
            break
    return chain


def _read_named(storage: Storage, names: Iterable[str], *, pass_over_failed: bool) -> ChainFiles:
    files, unreadable = [], []
    begun: dict[str, str] = {}
    failure: VbrError | None = None
    for name in names:
        try:
            files.append(open_file(storage, name))
        except (FormatInvalid, DataCorrupt) as error:
            found = _second_look(storage, name)
            if isinstance(found, BackupFile):
                files.append(found)
            elif found:
                begun[name] = str(error)
            else:
                unreadable.append((name, str(error)))
        except (StorageFailed, PermissionRefused) as error:
            if not pass_over_failed:
                raise
            failure = error
            unreadable.append((name, str(error)))
        except NotFound:  # removed by the chain's writer meanwhile
            continue
    if failure is not None and not files:
        raise failure
    chain = ChainFiles(tuple(sorted(files, key=lambda file: file.rank)), tuple(unreadable), tuple(begun))
    if begun and chain.missing():
        # One of them may be a file whose beginning was lost: nobody must take it for nothing.
        return msgspec.structs.replace(chain, unreadable=(*unreadable, *begun.items()), begun=())
    return chain


def _second_look(storage: Storage, name: str) -> BackupFile | bool:
    """Look at a file that could not be opened: it may have been committed just now, or not at all (True) yet."""
    try:
        return was_never_committed(storage, name) or open_file(storage, name)
    except (FormatInvalid, DataCorrupt, StorageFailed, PermissionRefused):
        return False
    except NotFound:  # removed by the chain's writer meanwhile
        return True


def new_name(storage: Storage, directory: str, session_id: str, created: float, kind: FileKind) -> str:
    """Return a name that is free: `<time>_<short id>[_<n>].<kind>.vbf`, time in UTC."""
    moment = dt.datetime.fromtimestamp(created, dt.UTC).strftime("%Y-%m-%dT%H%M%SZ")
    stem = f"{directory}/{moment}_{short_id(session_id)}"
    taken = {stem_of(name) for name in file_names(storage, directory)}
    candidate, number = stem, 1
    while candidate in taken:
        number += 1
        candidate = f"{stem}_{number}"
    return f"{candidate}.{kind}{ENDING}"


def stem_of(name: str) -> str:
    """Return a backup file's name without what it says of the file's kind."""
    return name.removesuffix(".full.vbf").removesuffix(".inc.vbf").removesuffix(".base.vbf")
