"""One SSH connection to a managed server: commands, small files, forwarded sockets, and programs to talk to.

The host key must be exactly the pinned one; nothing of the user's own SSH configuration or known hosts is read. A
command is always a constant text: SSH has no argument vectors, so what varies travels on its stdin.
"""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self, cast

import msgspec

from vbrcore.model.errors import CommandFailed, HostKeyChanged, InvalidValue, LoginRefused, ServerUnreachable, VbrError
from vbrcore.model.inventory import SshAccess
from vbrcore.model.times import Timing
from vbrcore.secrets.secret import Secret

if TYPE_CHECKING:
    import asyncssh

CONNECT_S = 10.0
LOGIN_S = 20.0
COMMAND_S = 60.0
MAX_FILE_BYTES = 64 * 1024 * 1024
MAX_OUTPUT_BYTES = 16 * 1024 * 1024
_TAIL_BYTES: Final = 8 * 1024
_METHODS: Final = {"identity": "publickey", "agent": "publickey", "password": "password,keyboard-interactive"}


class CommandResult(msgspec.Struct, frozen=True):
    """How a command ended. `exit_code` is -1 where a signal ended it."""

    exit_code: int
    stdout: bytes
    stderr: bytes

    def checked(self, what: str) -> bytes:
        """Return what it printed. Raises `CommandFailed` with its own words, where it failed."""
        if self.exit_code:
            words = (self.stderr or self.stdout)[-_TAIL_BYTES:].decode("utf-8", "replace").strip()
            raise CommandFailed(f"{what}: {words or f'ended with code {self.exit_code}'}")
        return self.stdout


class FileFacts(msgspec.Struct, frozen=True):
    """Of a file on the server."""

    size_bytes: int
    mode: int
    uid: int
    modified: float


class SshProgram:
    """A program on the server and its three streams. The end of the connection is the end of its stdin."""

    def __init__(self, process: "asyncssh.SSHClientProcess[bytes]") -> None:
        self._process = process
        self._stderr = bytearray()
        self._stderr_task = asyncio.create_task(self._keep_stderr(), name="ssh-stderr")

    @property
    def stderr_tail(self) -> str:
        return self._stderr.decode("utf-8", "replace").strip()

    async def readexactly(self, count: int) -> bytes:
        """As that of a `StreamReader`; a lost connection is the end of the stream."""
        with _as_end_of_stream():
            return await self._process.stdout.readexactly(count)

    async def readline(self) -> bytes:
        """Return the next line, or what is left at the end of the stream."""
        try:
            with _as_end_of_stream():
                return await self._process.stdout.readline()
        except asyncio.IncompleteReadError as error:
            return error.partial

    def write(self, data: bytes) -> None:
        if not self.closing:
            self._process.stdin.write(data)

    async def drain(self) -> None:
        """Wait while the server is slow. Raises `ConnectionError` when it is gone."""
        import asyncssh  # noqa: PLC0415 - a session on this machine alone must not pay for it

        try:
            await self._process.stdin.drain()
        except (asyncssh.Error, OSError) as error:
            raise ConnectionResetError(str(error)) from error

    @property
    def closing(self) -> bool:
        return self._process.stdin.is_closing()

    async def ended(self, timeout_s: float) -> int | None:
        """Close its stdin and wait for its end: its exit code, -1 where it has none, None while it still runs."""
        if not self.closing:
            self._process.stdin.write_eof()
        try:
            async with asyncio.timeout(timeout_s):
                await self._process.wait_closed()
                await self._stderr_task
        except TimeoutError:
            return None
        code = self._process.returncode
        return -1 if code is None else code

    def abort(self) -> None:
        """Close the channel at once: the program sees the end of its stdin, and sshd hangs up on it."""
        self._process.close()

    async def _keep_stderr(self) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError), _as_end_of_stream():
            while data := await self._process.stderr.read(_TAIL_BYTES):
                self._stderr += data
                del self._stderr[:-_TAIL_BYTES]


class SshConnection:
    """An open connection. `close` ends everything that was started over it."""

    def __init__(self, connection: "asyncssh.SSHClientConnection", where: str) -> None:
        self.where = where
        self._connection = connection

    @property
    def gone(self) -> bool:
        return self._connection.is_closed()

    async def start(self, command: str) -> SshProgram:
        """Start a program by a constant text. Raises `ServerUnreachable` when the connection is gone."""
        with self._typed():
            process = await self._connection.create_process(command, encoding=None)
        return SshProgram(process)

    async def run(self, command: str, data: bytes = b"", *, timeout_s: float = COMMAND_S) -> CommandResult:
        """Run a constant text with `data` as its stdin. Raises `ServerUnreachable`, `CommandFailed` if it takes too
        long.
        """
        with self._typed():
            process = await self._connection.create_process(command, encoding=None)
            try:
                async with asyncio.timeout(timeout_s):
                    process.stdin.write(data)
                    process.stdin.write_eof()
                    stdout, stderr = await asyncio.gather(
                        self._output(process.stdout), self._output(process.stderr), return_exceptions=False
                    )
                    await process.wait_closed()
            except TimeoutError as error:
                raise CommandFailed(f"{self.where}: a command did not end within {timeout_s:g} s") from error
            finally:
                process.close()
        code = process.returncode
        return CommandResult(-1 if code is None else code, stdout, stderr)

    async def _output(self, reader: "asyncssh.SSHReader[bytes]") -> bytes:
        found = bytearray()
        while part := await reader.read(1 << 16):
            found += part
            if len(found) > MAX_OUTPUT_BYTES:
                raise CommandFailed(f"{self.where}: a command printed more than {MAX_OUTPUT_BYTES} bytes")
        return bytes(found)

    async def put(self, path: str, data: bytes, *, mode: int = 0o600) -> None:
        """Write a small file over SFTP, seen whole or not at all. Raises `CommandFailed`, `ServerUnreachable`."""
        partial = f"{path}.partial"
        async with self._sftp(path) as sftp:
            async with sftp.open(partial, "wb") as file:
                await file.write(data)
            await sftp.chmod(partial, mode)
            await sftp.posix_rename(partial, path)

    async def get(self, path: str, *, max_bytes: int = MAX_FILE_BYTES) -> bytes:
        """Return a small file over SFTP. Raises `CommandFailed` also where it is longer than `max_bytes`."""
        async with self._sftp(path) as sftp, sftp.open(path, "rb") as file:
            data = bytearray()
            while part := await file.read(min(1 << 18, max_bytes + 1 - len(data))):
                data += cast("bytes", part)
                if len(data) > max_bytes:
                    raise CommandFailed(f"{self.where}: {path} is longer than {max_bytes} bytes")
            return bytes(data)

    async def stat(self, path: str) -> FileFacts | None:
        """Return what SFTP says of a path, None where there is none. Raises `CommandFailed`."""
        import asyncssh  # noqa: PLC0415

        async with self._sftp(path) as sftp:
            try:
                found = await sftp.stat(path)
            except asyncssh.SFTPNoSuchFile:
                return None
        return FileFacts(found.size or 0, found.permissions or 0, found.uid or 0, float(found.mtime or 0))

    @contextlib.asynccontextmanager
    async def forwarded(self, local: Path, remote: str) -> AsyncIterator[None]:
        """While this lasts, who connects to the Unix socket `local` talks to the Unix socket `remote` there.

        The directory of `local` must be private. Whether `remote` exists is seen only when somebody connects.
        """
        with self._typed():
            listener = await self._connection.forward_local_path(str(local), remote)
        try:
            yield
        finally:
            listener.close()
            await listener.wait_closed()
            with contextlib.suppress(FileNotFoundError):
                os.unlink(local)  # noqa: PTH108 - a name only, not worth a thread

    async def close(self) -> None:
        """End the connection; what was started over it has lost its peer then. Idempotent."""
        self._connection.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CONNECT_S):
                await self._connection.wait_closed()
                return
        self._connection.abort()

    def abort(self) -> None:
        """End it without a word to the other side."""
        self._connection.abort()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    @contextlib.asynccontextmanager
    async def _sftp(self, path: str) -> AsyncIterator["asyncssh.SFTPClient"]:
        import asyncssh  # noqa: PLC0415

        try:
            with self._typed():
                async with self._connection.start_sftp_client() as sftp:
                    yield sftp
        except asyncssh.SFTPError as error:
            raise CommandFailed(f"{self.where}: {path}: {error.reason}") from error

    @contextlib.contextmanager
    def _typed(self) -> Any:
        import asyncssh  # noqa: PLC0415

        try:
            yield
        except asyncssh.ChannelOpenError as error:
            if self._connection.is_closed():
                raise ServerUnreachable(f"{self.where}: the connection is gone") from error
            raise CommandFailed(f"{self.where} opens no channel: {error.reason}") from error
        except (asyncssh.DisconnectError, ConnectionError, BrokenPipeError) as error:
            raise ServerUnreachable(f"{self.where}: the connection is gone: {error}") from error


@contextlib.contextmanager
def _as_end_of_stream() -> Any:
    import asyncssh  # noqa: PLC0415

    try:
        yield
    except (asyncssh.Error, ConnectionError) as error:
        raise asyncio.IncompleteReadError(b"", None) from error


async def open_connection(
    access: SshAccess, secrets: Mapping[str, Secret], *, name: str = "", timing: Timing | None = None
) -> SshConnection:
    """Log in to a server. `secrets`: `identity` (a private key's text) or `password`, as `access.login` says.

    Raises `ServerUnreachable`, `HostKeyChanged`, `LoginRefused`, `InvalidValue` where what is pinned is no key.
    """
    import asyncssh  # noqa: PLC0415

    timing = timing or Timing()
    where = f"server {name or access.host}"
    pinned = _imported(access.host_key, where)
    seen: list[asyncssh.SSHKey] = []

    class Client(asyncssh.SSHClient):
        def validate_host_public_key(self, host: str, addr: str, port: int, key: asyncssh.SSHKey) -> bool:  # noqa: ARG002
            """Asked only for a key that is not the pinned one."""
            seen.append(key)
            return False

        def public_key_auth_requested(self) -> asyncssh.SSHKeyPair | asyncssh.SSHKey | None:
            return next(keys, None)

    try:
        async with asyncio.timeout(CONNECT_S + LOGIN_S), _keys(access, secrets, where) as keys:
            connection = await asyncssh.connect(
                access.host,
                access.port,
                client_factory=Client,
                username=access.user,
                password=_password(access, secrets, where),
                preferred_auth=_METHODS[access.login],
                client_keys=None,
                config=None,
                known_hosts=([pinned], [], []),
                x509_trusted_certs=None,
                compression_algs=None,
                connect_timeout=CONNECT_S,
                login_timeout=LOGIN_S,
                keepalive_interval=timing.heartbeat_s,
                keepalive_count_max=max(1, int(timing.silence_s / timing.heartbeat_s) - 1),
                gss_host=None,
            )
    except asyncssh.HostKeyNotVerifiable as error:
        raise _changed(where, pinned, seen[0] if seen else None) from error
    except asyncssh.PermissionDenied as error:
        raise LoginRefused(f"{where} refuses {access.user} by {access.login}: {error.reason}") from error
    except (asyncssh.DisconnectError, ConnectionResetError) as error:
        # A server without a key of the pinned one's kind may just hang up: look what it has.
        with contextlib.suppress(TimeoutError, OSError, asyncssh.Error):
            other = await _presented(access.host, access.port)
            if other is not None and other != pinned:
                raise _changed(where, pinned, other) from error
        raise ServerUnreachable(f"{where} at {access.host} port {access.port}: {_words(error)}") from error
    except (TimeoutError, OSError, asyncssh.Error) as error:
        raise ServerUnreachable(f"{where} at {access.host} port {access.port}: {_words(error)}") from error
    return SshConnection(connection, where)


async def probe_host_key(host: str, port: int = 22) -> str:
    """Return the host's public key as one line of OpenSSH's form, to be shown before it is pinned.

    Raises `ServerUnreachable`.
    """
    import asyncssh  # noqa: PLC0415

    try:
        key = await _presented(host, port)
    except (TimeoutError, OSError, asyncssh.Error) as error:
        raise ServerUnreachable(f"{host} port {port}: {_words(error)}") from error
    if key is None:
        raise ServerUnreachable(f"{host} port {port}: it shows no host key")
    return _line(key)


def fingerprint(public_key: str) -> str:
    """Return `SHA256:...` of a key line, as `ssh-keygen -l` prints it. Raises `InvalidValue`."""
    return _imported(public_key, "host key").get_fingerprint()


def _imported(line: str, where: str) -> "asyncssh.SSHKey":
    import asyncssh  # noqa: PLC0415

    try:
        return asyncssh.import_public_key(line)
    except asyncssh.KeyImportError as error:
        raise InvalidValue(f"{where}: {line[:80]!r} is no public key of OpenSSH's form: {error}") from error


def _secret(access: SshAccess, secrets: Mapping[str, Secret], where: str) -> str:
    if access.login not in secrets:
        raise LoginRefused(f"{where}: its {access.login} is not in the catalog")
    return secrets[access.login].reveal()


def _password(access: SshAccess, secrets: Mapping[str, Secret], where: str) -> str | None:
    return _secret(access, secrets, where) if access.login == "password" else None


@contextlib.asynccontextmanager
async def _keys(
    access: SshAccess, secrets: Mapping[str, Secret], where: str
) -> AsyncIterator["Iterator[asyncssh.SSHKeyPair | asyncssh.SSHKey]"]:
    """Yield the keys that may be tried: those of the way that `access` names, and no others that lie about."""
    import asyncssh  # noqa: PLC0415

    if access.login == "password":
        yield iter(())
    elif access.login == "identity":
        try:
            key = asyncssh.import_private_key(_secret(access, secrets, where))
        except (asyncssh.KeyImportError, asyncssh.KeyEncryptionError) as error:
            raise LoginRefused(f"{where}: its identity is no private key that can be used: {error}") from error
        yield iter((key,))
    else:
        path = os.environ.get("SSH_AUTH_SOCK", "")
        if not path:
            raise LoginRefused(f"{where}: no agent is in the environment of the service (SSH_AUTH_SOCK)")
        try:
            agent = await asyncssh.connect_agent(path)
        except OSError as error:
            raise LoginRefused(f"{where}: the agent at {path} does not answer: {error}") from error
        async with agent:
            yield iter(await agent.get_keys())


async def _presented(host: str, port: int) -> "asyncssh.SSHKey | None":
    import asyncssh  # noqa: PLC0415

    async with asyncio.timeout(CONNECT_S):
        return await asyncssh.get_server_host_key(host, port, config=None)


def _changed(where: str, pinned: "asyncssh.SSHKey", other: "asyncssh.SSHKey | None") -> VbrError:
    shown = other.get_fingerprint() if other is not None else "none that can be read"
    return HostKeyChanged(f"{where} shows host key {shown}, pinned is {pinned.get_fingerprint()}")


def _line(key: "asyncssh.SSHKey") -> str:
    """Return a key as one line, without a comment: that is only its owner's remark."""
    return " ".join(key.export_public_key("openssh").decode("ascii").split()[:2])


def _words(error: Exception) -> str:
    return str(error) or ("no answer in time" if isinstance(error, TimeoutError) else type(error).__name__)
