"""Disk images on a host that is reached by SSH: served by QEMU's own programs there, read and written by NBD here.

Nothing but sshd, QEMU's programs and usual ones is needed there.
"""

import posixpath
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import msgspec

from vbrcore.model.errors import (
    AlreadyExists,
    CommandFailed,
    ImageInvalid,
    OutputRefused,
    ServerUnreachable,
    SinkWriteFailed,
    TrackingLost,
)
from vbrcore.plugins import nbd
from vbrcore.plugins.api import Confinement
from vbrcore.plugins.mover import Extent
from vbrcore.plugins.nbd import NbdClient
from vbrcore.plugins.newfile import place_below
from vbrcore.plugins.ssh import HEARD, SshHost

FORMATS = ("raw", "qcow2")
_ENDINGS = {".raw": "raw", ".img": "raw", ".qcow2": "qcow2"}
_MAX_DEPTH = 64
_SECTOR_BYTES = 512
_CHECK_S = 3600
_EXISTS = "exists already"
_OUTSIDE = "is reached over a link"

_KIND = """
real=$(readlink -e "$1") && [ -f "$real" ] || { echo "no regular file: $1" >&2; exit 1; }
printf '%s\\n' "$real"
"""
_INFO = 'exec qemu-img info --output=json --force-share -f "$1" "$2"'
# 2 and 3: errors, or leaked clusters only; a damaged image is no failed command.
_CHECK = 'qemu-img check -q "$1" >&2; code=$?; echo "$code"; [ "$code" != 1 ]'
_WAIT_FOR_SOCKET = """
server=$!
tries=0
until [ -S "$directory/nbd" ]; do
    if ! [ -e "/proc/$server/exe" ] || [ "$tries" -gt 600 ]; then
        head -c 2000 "$directory/error" >&2
        exit 1
    fi
    tries=$((tries + 1))
    sleep 0.05
done
printf '%s\\n' "$directory/nbd"
"""
_SERVE = f"""{HEARD}
trap 'kill "$server" 2>/dev/null; wait' EXIT
trap 'exit 1' HUP INT TERM PIPE
server=
qemu-nbd --socket="$directory/nbd" "$@" 2>"$directory/error" &
{_WAIT_FOR_SOCKET}
while [ "$(heard)" = . ]; do :; done
"""
# The new image lies in a private directory until it is complete. The directory it goes to is entered once and then
# named by nothing but ".", so that nobody can exchange it meanwhile.
_CREATE = f"""{HEARD}
server= staging=
trap 'if [ "$server" ]; then kill "$server" 2>/dev/null; wait; fi; if [ "$staging" ]; then rm -rf "$staging"; fi' EXIT
trap 'exit 1' HUP INT TERM PIPE
name=$2 format=$3 size=$4
cd -P "$1" || exit 1
if [ "$5" ] && [ "$(readlink -e "$5")$6" != "$(pwd -P)" ]; then
    echo "$1 {_OUTSIDE}" >&2
    exit 1
fi
if [ -e "./$name" ] || [ -h "./$name" ]; then echo "$1/$name {_EXISTS}" >&2; exit 1; fi
staging=$(mktemp -d ./.vbr-XXXXXXXX) || exit 1
qemu-img create -q -f "$format" "$staging/image" "$size" >&2 || exit 1
qemu-nbd --socket="$directory/nbd" --format="$format" --discard=unmap "$staging/image" 2>"$directory/error" &
{_WAIT_FOR_SOCKET}
while sign=$(heard) && [ "$sign" = . ]; do :; done
[ "$sign" = c ] || exit 1
wait "$server" || {{ head -c 2000 "$directory/error" >&2; exit 1; }}
server=
chmod 600 "$staging/image" && sync "$staging/image" || exit 1
if ! ln -T "$staging/image" "./$name"; then
    if [ -e "./$name" ] || [ -h "./$name" ]; then echo "$1/$name {_EXISTS}" >&2; fi
    exit 1
fi
rm -rf "$staging"
staging=
sync .
echo done
"""


class RemoteImageReader:
    """An image on the host as a `mover.Reader`; nobody else's lock on it is taken.

    The format is said; files below are found from the image and named to QEMU with theirs, so that it guesses nothing.
    Raises `ImageInvalid` for an image that is damaged or names what is no plain file.
    """

    def __init__(self, host: SshHost, path: str, image_format: str, *, connections: int = nbd.CONNECTIONS) -> None:
        self._path = path
        try:
            node = _node(host, path, image_format, ()) | {"read-only": True, "force-share": True}
            _check(host, node, path)
            options = ["--read-only", f"--shared={connections}", "--cache=writeback", _json(node)]
            self._program = host.start(_SERVE, *options)
            served = self._program.line()
        except CommandFailed as error:
            raise ImageInvalid(f"{path} cannot be opened: {error}") from error
        try:
            self._client = NbdClient(connector(host, served), connections=connections)
        except BaseException:
            self._program.close()
            raise
        self.size_bytes = self._client.size_bytes

    def extents(self, since: str) -> Iterator[Extent]:
        if since:
            raise TrackingLost(f"{self._path}: an image file knows no changes")
        return self._client.extents()

    def read_into(self, offset: int, buffer: memoryview) -> None:
        self._client.read_into(offset, buffer)

    def close(self) -> None:
        self._client.close()
        self._program.close()


class RemoteImageWriter:
    """A new image on the host as a `mover.Writer`: mode 0600, under its name with `finish` and not before.

    Raises `AlreadyExists`, `OutputRefused` for a place outside `confinement`, `SinkWriteFailed`.
    """

    def __init__(
        self, host: SshHost, path: str, image_format: str, size_bytes: int, confinement: Confinement | None
    ) -> None:
        if image_format not in FORMATS:
            raise SinkWriteFailed(f"format {image_format!r} cannot be written there, only {', '.join(FORMATS)}")
        self._path = path
        self._size_bytes = size_bytes
        whole = -(-size_bytes // _SECTOR_BYTES) * _SECTOR_BYTES
        directory, name = posixpath.split(path)
        words = [directory, name, image_format, str(whole), *_bounds(path, confinement)]
        self._program = host.start(_CREATE, *words)
        self._client: NbdClient | None = None
        try:
            served = self._said()
            connect = connector(host, served)
            self._client = NbdClient(connect, contexts=(), connections=1, failure=SinkWriteFailed)
        except BaseException:
            self._program.close()
            raise

    def write_from(self, offset: int, buffer: memoryview) -> None:
        padding = self._padding(offset, len(buffer))
        self._opened().write_from(offset, memoryview(bytes(buffer) + bytes(padding)) if padding else buffer)

    def zero(self, offset: int, length: int) -> None:
        self._opened().zero(offset, length + self._padding(offset, length))

    def finish(self) -> None:
        client = self._opened()
        client.flush()
        client.close()
        self._client = None
        self._program.send(b"c")
        if self._said() != "done":
            raise SinkWriteFailed(f"{self._path} was not made durable")

    def close(self) -> None:
        if self._client is not None:
            self._client.close()
        self._program.close()

    def _said(self) -> str:
        try:
            return self._program.line(_CHECK_S)
        except CommandFailed as error:
            if _EXISTS in str(error):
                raise AlreadyExists(str(error)) from error
            if _OUTSIDE in str(error):
                raise OutputRefused(str(error)) from error
            raise SinkWriteFailed(f"{self._path} cannot be written: {error}") from error

    def _padding(self, offset: int, length: int) -> int:
        """Return how many zeros fill up the last sector of a disk that does not end with one."""
        return -length % _SECTOR_BYTES if offset + length == self._size_bytes else 0

    def _opened(self) -> NbdClient:
        if self._client is None:
            raise SinkWriteFailed(f"{self._path} is closed")
        return self._client


def connector(host: SshHost, path: str) -> nbd.Connect:
    """Return what connects an NBD client to a Unix socket there; its failures are those of a socket."""

    def connect() -> Any:
        try:
            sock = host.connect_unix(path)
        except (CommandFailed, ServerUnreachable) as error:
            raise ConnectionRefusedError(str(error)) from error
        sock.settimeout(nbd.TIMEOUT_S)
        return sock

    return connect


def _bounds(path: str, confinement: Confinement | None) -> tuple[str, str]:
    """Return the allowed directory that a new file lies below, and the way from it to the file's own directory."""
    if confinement is None:
        return "", ""
    if confinement.uid >= 0:
        raise OutputRefused(f"{path}: files on another server cannot be given to user {confinement.uid}")
    allowed = [PurePosixPath(one) for one in confinement.directories]
    place_below(Path(path), tuple(map(str, allowed)))
    base = next(one for one in allowed if PurePosixPath(path).is_relative_to(one))
    inner = PurePosixPath(path).parent.relative_to(base)
    return str(base), "" if inner == PurePosixPath(".") else f"/{inner}"


def _node(host: SshHost, path: str, image_format: str, above: tuple[str, ...]) -> dict[str, Any]:
    """Return an image and what lies below it as a block node with every format and file said."""
    if image_format not in FORMATS:
        raise ImageInvalid(f"{path}: format {image_format!r} is read by a mover on the host only")
    real = host.run(_KIND, path).decode(errors="surrogateescape").removesuffix("\n")
    if real in above or len(above) >= _MAX_DEPTH:
        raise ImageInvalid(f"{above[0]}: its backing files form a ring or a chain of more than {_MAX_DEPTH}")
    node: dict[str, Any] = {"driver": image_format, "file": {"driver": "file", "filename": real}}
    if image_format == "raw":
        return node
    found = _info(host, real)
    if found.get("format-specific", {}).get("data", {}).get("data-file"):
        raise ImageInvalid(f"{real}: its data lies in another file: it is read by a mover on the host only")
    below = str(found.get("backing-filename") or "")
    node["backing"] = None
    if below:
        kind = found.get("backing-filename-format") or _ENDINGS.get(PurePosixPath(below).suffix.lower(), "")
        if ":" in below.split("/", 1)[0] or not kind:
            raise ImageInvalid(f"{real}: its backing file {below[:200]!r} is no plain file, or its format is not known")
        node["backing"] = _node(host, str(PurePosixPath(real).parent / below), str(kind), (*above, real))
    return node


def _info(host: SshHost, path: str) -> dict[str, Any]:
    try:
        found = msgspec.json.decode(host.run(_INFO, "qcow2", path), type=dict[str, Any])
    except msgspec.MsgspecError as error:
        raise ImageInvalid(f"{path}: qemu-img info gave no usable description") from error
    return found


def _check(host: SshHost, node: dict[str, Any], path: str) -> None:
    """Raise `ImageInvalid` if the tables of an image, or of one below it, are damaged or point beyond its end."""
    below: dict[str, Any] | None = node
    while below is not None:
        if below["driver"] == "qcow2":
            shared = below | {"read-only": True, "force-share": True}
            if host.run(_CHECK, _json(shared), timeout_s=_CHECK_S).split()[-1:] == [b"2"]:
                raise ImageInvalid(f"{path} is damaged or truncated: qemu-img check finds errors")
        below = below.get("backing")


def _json(node: dict[str, Any]) -> str:
    return "json:" + msgspec.json.encode(node).decode()
