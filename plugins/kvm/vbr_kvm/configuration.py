"""What is kept of a machine beside its disks: definition, NVRAM, TPM state. No libvirt here: the mover reads it."""

import io
import os
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec

from vbrcore.model.errors import AlreadyExists, DataCorrupt, SinkWriteFailed, SourceReadFailed
from vbrcore.plugins.api import SourceSpec

MAXIMUM_BYTES = 48 << 20


class KvmConfiguration(msgspec.Struct, frozen=True):
    """`xml` is libvirt's definition without secrets; `nvram` the variables file; `tpm` a tar of the TPM's state."""

    version: int
    xml: str
    nvram: bytes = b""
    tpm: bytes = b""


def pack(configuration: KvmConfiguration) -> bytes:
    return msgspec.msgpack.encode(configuration)


def unpack(data: bytes) -> KvmConfiguration:
    try:
        return msgspec.msgpack.decode(data, type=KvmConfiguration)
    except msgspec.MsgspecError as error:
        raise DataCorrupt(f"the machine's configuration cannot be read: {error}") from error


class ConfigurationFiles:
    """The mover half's "configuration" reader: settings `xml`, `nvram` and `tpm` (paths, "": there is none)."""

    def __init__(self, spec: SourceSpec) -> None:
        self._xml = str(spec.settings["xml"])
        self._nvram = str(spec.settings.get("nvram", ""))
        self._tpm = str(spec.settings.get("tpm", ""))

    def read(self) -> bytes:
        try:
            nvram = _read_bounded(Path(self._nvram)) if self._nvram else b""
            tpm = _tar(Path(self._tpm)) if self._tpm else b""
        except OSError as error:
            raise SourceReadFailed(f"configuration: {error}") from error
        return pack(KvmConfiguration(1, self._xml, nvram, tpm))


def _read_bounded(path: Path) -> bytes:
    with path.open("rb") as file:
        data = file.read(MAXIMUM_BYTES + 1)
    if len(data) > MAXIMUM_BYTES:
        raise SourceReadFailed(f"{path}: larger than {MAXIMUM_BYTES} bytes")
    return data


def _tar(directory: Path) -> bytes:
    """Pack the regular files of a small directory; owners and times are not kept, only names and contents."""
    plain = (path for path in directory.iterdir() if path.is_file() and not path.is_symlink() and path.name != ".lock")
    return tar_of({path.name: _read_bounded(path) for path in plain})


def tar_of(files: Mapping[str, bytes]) -> bytes:
    """Pack files by name."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, data in sorted(files.items()):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def files_in(data: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield names and contents of the files in a packed TPM state. Raises `DataCorrupt` for what is no plain file."""
    try:
        with tarfile.open(fileobj=io.BytesIO(data)) as archive:
            for member in archive:
                content = archive.extractfile(member) if member.isreg() else None
                if content is None or member.name in {"", ".", ".."} or "/" in member.name:
                    raise DataCorrupt(f"TPM state holds {member.name!r}, which is no plain file")
                yield member.name, content.read()
    except tarfile.TarError as error:
        raise DataCorrupt(f"TPM state cannot be unpacked: {error}") from error


def unpack_tpm(data: bytes, directory: Path, owner: tuple[int, int]) -> None:
    """Write the files of a TPM's state into a new directory; names with a directory part are refused."""
    try:
        directory.parent.mkdir(mode=0o711, exist_ok=True)
        directory.mkdir(mode=0o700)
        for name, content in files_in(data):
            write_new(directory / name, content, owner)
        if os.getuid() == 0:
            os.chown(directory, *owner)
    except OSError as error:
        raise SinkWriteFailed(f"TPM state: {error}") from error


def write_new(path: Path, data: bytes, owner: tuple[int, int]) -> None:
    """Write a new file, mode 0600, for QEMU's account (only root can give files away)."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            if os.getuid() == 0:
                os.fchown(descriptor, *owner)
    except FileExistsError as error:
        raise AlreadyExists(f"{path} exists already") from error
    except OSError as error:
        raise SinkWriteFailed(f"{path}: {error}") from error
