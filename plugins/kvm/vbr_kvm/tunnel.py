"""The mover half's transport mode `tunnel`: everything on the host is reached through SSH. No libvirt here."""

import contextlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from vbr_kvm.configuration import MAXIMUM_BYTES, KvmConfiguration, pack, tar_of
from vbr_kvm.places import ENDED
from vbr_kvm.reader import BackupReader
from vbrcore.model.errors import CommandFailed, ServerUnreachable, SourceReadFailed
from vbrcore.plugins.api import SinkSpec, SourceSpec
from vbrcore.plugins.ssh import SshHost, access_from
from vbrcore.plugins.sshimage import RemoteImageReader, RemoteImageWriter, connector

_NOTE_BYTES = 1 << 16


def ended_reason(host: SshHost, directory: Path) -> str:
    """Return the note why a backup was ended; "": there is none, or it cannot be read."""
    with contextlib.suppress(CommandFailed, FileNotFoundError, ServerUnreachable):
        return host.read_file(str(directory / ENDED), _NOTE_BYTES).decode(errors="replace")
    return ""


class BackupTunnel(BackupReader):
    """A disk of a running domain: the Unix socket of its backup job, forwarded."""

    def __init__(self, spec: SourceSpec) -> None:
        self._host = _login(spec)
        path = str(spec.settings["socket"])
        ended = partial(ended_reason, self._host, Path(path).parent)
        with _closed_on_failure(self._host):
            super().__init__(spec, connector(self._host, path), ended)

    def close(self) -> None:
        super().close()
        self._host.close()


class ImageTunnel(RemoteImageReader):
    """The image of a machine that is off, served by qemu-nbd on its host, so that the machine can still start."""

    def __init__(self, spec: SourceSpec) -> None:
        self._host = _login(spec)
        with _closed_on_failure(self._host):
            super().__init__(self._host, str(spec.settings["path"]), str(spec.settings["format"]))

    def close(self) -> None:
        super().close()
        self._host.close()


class ImageSinkTunnel(RemoteImageWriter):
    """A new image of a restored machine, written on its host by qemu-nbd there."""

    def __init__(self, spec: SinkSpec) -> None:
        self._host = _login(spec)
        path, image_format = str(spec.settings["path"]), str(spec.settings["format"])
        with _closed_on_failure(self._host):
            super().__init__(self._host, path, image_format, spec.size_bytes, spec.confinement)

    def close(self) -> None:
        super().close()
        self._host.close()


class ConfigurationTunnel:
    """As `ConfigurationFiles`, by SFTP."""

    def __init__(self, spec: SourceSpec) -> None:
        self._spec = spec

    def read(self) -> bytes:
        settings = self._spec.settings
        nvram, tpm = str(settings.get("nvram", "")), str(settings.get("tpm", ""))
        with contextlib.closing(_login(self._spec)) as host:
            try:
                variables = host.read_file(nvram, MAXIMUM_BYTES) if nvram else b""
                files = {name: host.read_file(f"{tpm}/{name}", MAXIMUM_BYTES) for name in _state_files(host, tpm)}
            except (CommandFailed, FileNotFoundError) as error:
                raise SourceReadFailed(f"configuration: {error}") from error
        return pack(KvmConfiguration(1, str(settings["xml"]), variables, tar_of(files) if tpm else b""))


def _state_files(host: SshHost, tpm: str) -> list[str]:
    return [name for name in host.list_files(tpm) if name != ".lock"] if tpm else []


def _login(spec: SourceSpec | SinkSpec) -> SshHost:
    return SshHost(access_from(spec.settings), spec.secrets)


@contextlib.contextmanager
def _closed_on_failure(host: SshHost) -> Iterator[None]:
    try:
        yield
    except BaseException:
        host.close()
        raise
