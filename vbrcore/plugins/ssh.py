"""The host of a hypervisor over SSH, for plugins and their mover halves: blocking, one connection, any thread.

The host key must be exactly the pinned one, and nothing of the user's own SSH configuration is read. What runs there is
a constant script; the words it works on travel on its stdin. Nothing but sshd and usual programs is needed there.
"""

import asyncio
import base64
import contextlib
import os
import shlex
import socket
import tempfile
import threading
from collections.abc import AsyncIterator, Coroutine, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from vbrcore.model.errors import (
    AlreadyExists,
    CommandFailed,
    HostKeyChanged,
    InvalidValue,
    LoginRefused,
    ServerUnreachable,
)
from vbrcore.model.inventory import SshAccess

if TYPE_CHECKING:
    import asyncssh

T = TypeVar("T")

LOGIN_S = 30.0
COMMAND_S = 60.0
MAX_OUTPUT_BYTES = 16 << 20
# A host that is silent for 30 s is gone; what runs there for us ends itself after as long (DESIGN section 4).
_KEEPALIVE_S = 10
_KEEPALIVES = 2
_PUMP_BYTES = 1 << 18
_METHODS = {"identity": "publickey", "agent": "publickey", "password": "password,keyboard-interactive"}

# The words arrive as one line, then a sign of life every few seconds. They become arguments and are never part of the
# text; the program's directory is private and goes with it.
_LIVING = """
umask 077
read -r words || exit 1
directory=$(mktemp -d "${XDG_RUNTIME_DIR:-/tmp}/vbr-XXXXXXXX") || exit 1
trap 'rm -rf "$directory"' EXIT
trap 'exit 1' HUP INT TERM PIPE
export directory
printf %s "$words" | base64 -d >"$directory/words" || exit 1
xargs -0 -a "$directory/words" /bin/sh -c """
# What a living program calls to wait: what was sent ("." is a sign of life); "" after 40 s of silence, or at the end.
HEARD = """
heard() { timeout 40 dd bs=1 count=1 2>/dev/null; }
"""


def settings_of(access: SshAccess) -> dict[str, str | int | bool | list[str]]:
    """Return an access as settings of a spec, for `access_from`; its secrets go into the spec's `secrets`."""
    return {
        "ssh_host": access.host,
        "ssh_port": access.port,
        "ssh_user": access.user,
        "ssh_login": access.login,
        "ssh_host_key": access.host_key,
    }


def access_from(settings: Mapping[str, Any]) -> SshAccess:
    login = settings["ssh_login"]
    if login not in _METHODS:
        raise InvalidValue(f"login {login!r}: one of {', '.join(_METHODS)}")
    return SshAccess(
        host=str(settings["ssh_host"]),
        user=str(settings["ssh_user"]),
        host_key=str(settings["ssh_host_key"]),
        port=int(settings["ssh_port"]),
        login=login,
    )


class SshHost:
    """An open login. Every method may raise `ServerUnreachable` when the connection is gone.

    The constructor raises `ServerUnreachable`, `HostKeyChanged`, `LoginRefused`, `InvalidValue`.
    """

    def __init__(self, access: SshAccess, secrets: Mapping[str, str], *, name: str = "") -> None:
        self.where = f"server {name or access.host}"
        self.user = access.user
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=f"ssh {access.host}", daemon=True)
        self._thread.start()
        self._connection: asyncssh.SSHClientConnection | None = None
        self._sftp: asyncssh.SFTPClient | None = None
        self._pumps: set[asyncio.Task[None]] = set()
        try:
            self._connection = self.wait_for(_login(access, secrets, self.where))
        except BaseException:
            self.close()
            raise

    # --- commands -------------------------------------------------------------------------------

    def run(self, script: str, *words: str, timeout_s: float = COMMAND_S) -> bytes:
        """Run a constant script for /bin/sh; `words` are its arguments $1... Return what it printed.

        Raises `CommandFailed` with its own words where it fails, or does not end in time.
        """
        stdin = b"".join(os.fsencode(word) + b"\0" for word in words)
        command = f"LC_ALL=C exec xargs -0 /bin/sh -c {shlex.quote(script)} sh"
        return self.wait_for(self._run(command, stdin, timeout_s))

    async def _run(self, command: str, stdin: bytes, timeout_s: float) -> bytes:
        async with self._process(f"exec /bin/sh -c {shlex.quote(command)}") as process:
            try:
                async with asyncio.timeout(timeout_s):
                    process.stdin.write(stdin)
                    process.stdin.write_eof()
                    stdout, stderr = await asyncio.gather(self._output(process.stdout), self._output(process.stderr))
                    await process.wait_closed()
            except TimeoutError as error:
                raise CommandFailed(f"{self.where}: a command did not end within {timeout_s:g} s") from error
            if process.returncode:
                text = (stderr or stdout)[-2000:].decode(errors="replace").strip()
                raise CommandFailed(f"{self.where}: {text or f'a command ended with {process.returncode}'}")
            return stdout

    async def _output(self, reader: "asyncssh.SSHReader[bytes]") -> bytes:
        found = bytearray()
        while part := await reader.read(1 << 16):
            found += part
            if len(found) > MAX_OUTPUT_BYTES:
                raise CommandFailed(f"{self.where}: a command printed more than {MAX_OUTPUT_BYTES} bytes")
        return bytes(found)

    def start(self, script: str, *words: str) -> "HostProgram":
        """Start a constant script for /bin/sh that lives as long as it hears from us (see `HEARD`).

        `words` are its arguments, `$directory` a private directory of its own.
        """
        return HostProgram(self, *self.wait_for(self._start(script, words)))

    async def _start(
        self, script: str, words: Sequence[str]
    ) -> "tuple[asyncssh.SSHClientProcess[bytes], asyncio.Task[None]]":
        packed = base64.b64encode(b"".join(os.fsencode(word) + b"\0" for word in words))
        living = f"{_LIVING}{shlex.quote(script)} sh"
        async with self._process(f"LC_ALL=C exec /bin/sh -c {shlex.quote(living)}", keep=True) as process:
            process.stdin.write(packed + b"\n")
            return process, asyncio.create_task(_sign_of_life(process))

    @contextlib.asynccontextmanager
    async def _process(self, command: str, *, keep: bool = False) -> "AsyncIterator[asyncssh.SSHClientProcess[bytes]]":
        with self._typed():
            process = await self._open().create_process(command, encoding=None)
            try:
                yield process
            except BaseException:
                process.close()
                raise
            if not keep:
                process.close()

    # --- sockets --------------------------------------------------------------------------------

    def connect_unix(self, path: str) -> socket.socket:
        """Return a socket whose other end is a connection to the Unix socket `path` there."""
        ours, theirs = socket.socketpair()
        try:
            self.wait_for(self._join(path, theirs))
        except BaseException:
            ours.close()
            theirs.close()
            raise
        return ours

    async def _join(self, path: str, near: socket.socket) -> None:
        with self._typed():
            far_reader, far_writer = await self._open().open_unix_connection(path, encoding=None)
        near.setblocking(False)
        reader, writer = await asyncio.open_connection(sock=near, limit=_PUMP_BYTES)
        self._pump(reader, writer, far_reader, far_writer)

    def _pump(self, reader: Any, writer: Any, far_reader: Any, far_writer: Any) -> None:
        task = asyncio.get_running_loop().create_task(_both_ways(reader, writer, far_reader, far_writer))
        self._pumps.add(task)
        task.add_done_callback(self._pumps.discard)

    @contextlib.contextmanager
    def forwarded(self, path: str) -> Iterator[str]:
        """Yield a Unix socket of ours that leads to `path` there. The name ends with the block, connections go on."""
        with tempfile.TemporaryDirectory(prefix="vbr-") as directory:  # mode 0700
            local = str(Path(directory) / "s")
            server = self.wait_for(self._listen(local, path))
            try:
                yield local
            finally:
                self.wait_for(_stop_listening(server))

    async def _listen(self, local: str, path: str) -> asyncio.Server:
        async def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                with self._typed():
                    far_reader, far_writer = await self._open().open_unix_connection(path, encoding=None)
            except (CommandFailed, ServerUnreachable):
                writer.close()
                return
            self._pump(reader, writer, far_reader, far_writer)

        return await asyncio.start_unix_server(accepted, local, limit=_PUMP_BYTES)

    # --- files ----------------------------------------------------------------------------------

    def read_file(self, path: str, max_bytes: int) -> bytes:
        """Return a file whole. Raises `CommandFailed`, also for one that is longer; `FileNotFoundError`."""
        return self.wait_for(self._read_file(path, max_bytes))

    async def _read_file(self, path: str, max_bytes: int) -> bytes:
        async with self._files(path) as sftp, sftp.open(path, "rb") as file:
            found = bytearray()
            while part := await file.read(min(1 << 18, max_bytes + 1 - len(found))):
                found += cast("bytes", part)
                if len(found) > max_bytes:
                    raise CommandFailed(f"{self.where}: {path} is longer than {max_bytes} bytes")
            return bytes(found)

    def write_new(self, path: str, data: bytes, owner: tuple[int, int] | None) -> None:
        """Write a new file, mode 0600, durable where the server can. Raises `AlreadyExists`, `CommandFailed`."""
        self.wait_for(self._write_new(path, data, owner))

    async def _write_new(self, path: str, data: bytes, owner: tuple[int, int] | None) -> None:
        import asyncssh  # noqa: PLC0415 - heavy, and a mover on the host does without

        async with self._files(path) as sftp:
            try:
                opened = await sftp.open(path, "xb", asyncssh.SFTPAttrs(permissions=0o600))
            except asyncssh.SFTPError as error:
                if await sftp.lexists(path):
                    raise AlreadyExists(f"{path} exists already on {self.where}") from error
                raise
            async with opened as file:
                await file.write(data)
                if owner is not None:
                    await file.setstat(asyncssh.SFTPAttrs(uid=owner[0], gid=owner[1]))
                with contextlib.suppress(asyncssh.SFTPOpUnsupported):
                    await file.fsync()

    def list_files(self, path: str) -> list[str]:
        """Return the names of the regular files in a directory, sorted. Raises as `read_file`."""
        return self.wait_for(self._list_files(path))

    async def _list_files(self, path: str) -> list[str]:
        import asyncssh  # noqa: PLC0415

        async with self._files(path) as sftp:
            found = [one async for one in sftp.scandir(path)]
        return sorted(str(one.filename) for one in found if one.attrs.type == asyncssh.FILEXFER_TYPE_REGULAR)

    def exists(self, path: str) -> bool:
        """Tell whether there is anything of this name, be it a link that leads nowhere."""
        return self.wait_for(self._exists(path))

    async def _exists(self, path: str) -> bool:
        async with self._files(path) as sftp:
            return await sftp.lexists(path)

    def space(self, path: str) -> tuple[int, int]:
        """Return size and free bytes of the file system that holds `path`."""
        return self.wait_for(self._space(path))

    async def _space(self, path: str) -> tuple[int, int]:
        async with self._files(path) as sftp:
            found = await sftp.statvfs(path)
        return found.blocks * found.frsize, found.bavail * found.frsize

    @contextlib.asynccontextmanager
    async def _files(self, path: str) -> "AsyncIterator[asyncssh.SFTPClient]":
        import asyncssh  # noqa: PLC0415

        try:
            with self._typed():
                if self._sftp is None:
                    self._sftp = await self._open().start_sftp_client()
                yield self._sftp
        except asyncssh.SFTPNoSuchFile as error:
            raise FileNotFoundError(f"{self.where}: {path}: {error.reason}") from error
        except asyncssh.SFTPConnectionLost as error:
            raise ServerUnreachable(f"{self.where}: the connection is gone") from error
        except asyncssh.SFTPError as error:
            raise CommandFailed(f"{self.where}: {path}: {error.reason}") from error

    # --- the connection -------------------------------------------------------------------------

    def close(self) -> None:
        """End the connection, and with it whatever was started over it. Idempotent."""
        if self._loop.is_closed():
            return
        self.wait_for(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _close(self) -> None:
        for task in list(self._pumps):
            task.cancel()
        if self._connection is not None:
            self._connection.abort()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await asyncio.sleep(0)  # what was closed is given back in the loop's next round

    def _open(self) -> "asyncssh.SSHClientConnection":
        if self._connection is None or self._connection.is_closed():
            raise ServerUnreachable(f"{self.where}: the connection is gone")
        return self._connection

    def wait_for(self, work: Coroutine[Any, Any, T]) -> T:
        """Run this work on the connection's own loop."""
        if self._loop.is_closed():
            work.close()
            raise ServerUnreachable(f"{self.where}: the connection is closed")
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    @contextlib.contextmanager
    def _typed(self) -> Iterator[None]:
        import asyncssh  # noqa: PLC0415

        try:
            yield
        except asyncssh.ChannelOpenError as error:
            if self._connection is None or self._connection.is_closed():
                raise ServerUnreachable(f"{self.where}: the connection is gone") from error
            raise CommandFailed(f"{self.where} opens no channel: {error.reason}") from error
        except (asyncssh.DisconnectError, ConnectionError) as error:
            raise ServerUnreachable(f"{self.where}: the connection is gone: {error}") from error


class HostProgram:
    """A program on the host that ends with `close`, and 40 s after we were last heard of there."""

    def __init__(self, host: SshHost, process: "asyncssh.SSHClientProcess[bytes]", alive: asyncio.Task[None]) -> None:
        self._host = host
        self._process = process
        self._alive = alive

    def line(self, timeout_s: float = COMMAND_S) -> str:
        """Return the next line that it prints. Raises `CommandFailed` with its words where it ended instead."""
        return self._host.wait_for(self._line(timeout_s))

    async def _line(self, timeout_s: float) -> str:
        try:
            async with asyncio.timeout(timeout_s):
                line = await self._process.stdout.readline()
                if line.endswith(b"\n"):
                    return os.fsdecode(line[:-1])
                text = (await self._process.stderr.read(2000)).decode(errors="replace").strip()
        except TimeoutError as error:
            raise CommandFailed(f"{self._host.where}: a program said nothing for {timeout_s:g} s") from error
        raise CommandFailed(f"{self._host.where}: {text or 'a program ended early'}")

    def send(self, sign: bytes) -> None:
        """Send it one byte."""
        self._host.wait_for(self._send(sign))

    async def _send(self, sign: bytes) -> None:
        self._process.stdin.write(sign)

    def close(self) -> None:
        """End it; returns when it is gone, where the connection still is. Idempotent."""
        with contextlib.suppress(ServerUnreachable):
            self._host.wait_for(self._end())

    async def _end(self) -> None:
        self._alive.cancel()
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(LOGIN_S):
                if not self._process.stdin.is_closing():
                    self._process.stdin.write_eof()
                await self._process.wait_closed()
        self._process.close()


async def _sign_of_life(process: "asyncssh.SSHClientProcess[bytes]") -> None:
    with contextlib.suppress(OSError, ValueError):
        while not process.stdin.is_closing():
            process.stdin.write(b".")
            await asyncio.sleep(_KEEPALIVE_S)


async def _stop_listening(server: asyncio.Server) -> None:
    server.close()


async def _both_ways(reader: Any, writer: Any, far_reader: Any, far_writer: Any) -> None:
    """Copy until both sides have ended; a side that is lost ends the other at once."""
    ways = [asyncio.create_task(_copy(reader, far_writer)), asyncio.create_task(_copy(far_reader, writer))]
    try:
        done, _ = await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        if all(way.exception() is None for way in done):
            await asyncio.wait(ways)
    finally:
        for way in ways:
            way.cancel()
        await asyncio.gather(*ways, return_exceptions=True)
        writer.close()
        far_writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def _copy(source: Any, sink: Any) -> None:
    while data := await source.read(_PUMP_BYTES):
        sink.write(data)
        await sink.drain()
    sink.write_eof()


async def _login(access: SshAccess, secrets: Mapping[str, str], where: str) -> "asyncssh.SSHClientConnection":
    import asyncssh  # noqa: PLC0415

    try:
        pinned = asyncssh.import_public_key(access.host_key)
    except asyncssh.KeyImportError as error:
        raise InvalidValue(f"{where}: its pinned host key is no public key: {error}") from error
    try:
        async with asyncio.timeout(LOGIN_S), _keys(access, secrets, where) as keys:
            return await asyncssh.connect(
                access.host,
                access.port,
                username=access.user,
                password=secrets["password"] if access.login == "password" else None,
                preferred_auth=_METHODS[access.login],
                client_keys=keys or None,
                agent_path=None,
                config=None,
                known_hosts=([pinned], [], []),
                x509_trusted_certs=None,
                compression_algs=None,
                gss_host=None,
                keepalive_interval=_KEEPALIVE_S,
                keepalive_count_max=_KEEPALIVES,
            )
    except asyncssh.HostKeyNotVerifiable as error:
        raise HostKeyChanged(f"{where} shows another host key than {pinned.get_fingerprint()}") from error
    except asyncssh.PermissionDenied as error:
        raise LoginRefused(f"{where} refuses {access.user} by {access.login}: {error.reason}") from error
    except (TimeoutError, OSError, asyncssh.Error) as error:
        words = str(error) or "no answer in time"
        raise ServerUnreachable(f"{where} at {access.host} port {access.port}: {words}") from error


@contextlib.asynccontextmanager
async def _keys(access: SshAccess, secrets: Mapping[str, str], where: str) -> "AsyncIterator[list[Any]]":
    """Yield the keys that may be tried: of the way that `access` names, and no others that lie about."""
    import asyncssh  # noqa: PLC0415

    if access.login == "agent":
        path = os.environ.get("SSH_AUTH_SOCK", "")
        if not path:
            raise LoginRefused(f"{where}: no agent is in the environment (SSH_AUTH_SOCK)")
        async with await asyncssh.connect_agent(path) as agent:
            yield list(await agent.get_keys())
        return
    if access.login not in secrets:
        raise LoginRefused(f"{where}: its {access.login} is not at hand")
    try:
        yield [asyncssh.import_private_key(secrets["identity"])] if access.login == "identity" else []
    except (asyncssh.KeyImportError, asyncssh.KeyEncryptionError) as error:
        raise LoginRefused(f"{where}: its identity is no private key that can be used: {error}") from error
