"""A real sshd of its own on loopback, for tests and benchmarks: nothing of the system's is touched."""

import asyncio
import os
import pwd
import shutil
import socket
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from vbrcore.model.inventory import SshAccess
from vbrcore.secrets.secret import Secret

_START_S = 10.0
_CONFIGURATION = """\
ListenAddress 127.0.0.1
Port {port}
HostKey {directory}/host_key
AuthorizedKeysFile {directory}/authorized_keys
PidFile none
StrictModes no
UsePAM no
PermitRootLogin yes
PasswordAuthentication yes
KbdInteractiveAuthentication no
PrintMotd no
Subsystem sftp internal-sftp
MaxStartups 100
{environment}
"""


def free_port() -> int:
    """Return a port of loopback that nobody uses just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Sshd:
    """Runs while the context lasts. Who logs in has a home of its own, `home`, and what `environment` says."""

    def __init__(self, directory: Path, *, user: str = "", environment: Mapping[str, str] | None = None) -> None:
        self.directory = directory
        self.home = directory / "home"
        self.port = free_port()
        self.user = user or pwd.getpwuid(os.getuid()).pw_name
        self._environment = {"HOME": str(self.home), **(environment or {})}
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.home.mkdir(parents=True)
        account = pwd.getpwnam(self.user)
        if account.pw_uid != os.getuid():
            os.chown(self.home, account.pw_uid, account.pw_gid)
        _keygen(self.directory / "host_key")
        _keygen(self.directory / "identity")
        shutil.copy(self.directory / "identity.pub", self.directory / "authorized_keys")
        (self.directory / "authorized_keys").chmod(0o644)
        variables = " ".join(f"{name}={value}" for name, value in self._environment.items())
        text = _CONFIGURATION.format(port=self.port, directory=self.directory, environment=f"SetEnv {variables}")
        (self.directory / "sshd_config").write_text(text)
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start it; return when it accepts connections."""
        if os.getuid() == 0:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # its own privilege separation asks for this place
        program = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
        if program is None:
            raise FileNotFoundError("sshd is not installed (openssh-server)")
        with (self.directory / "sshd.log").open("ab") as log:
            command = [program, "-D", "-e", "-f", str(self.directory / "sshd_config")]
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        deadline = time.monotonic() + _START_S
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
            except OSError:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    log_text = (self.directory / "sshd.log").read_text(errors="replace")
                    raise RuntimeError(f"sshd does not start: {log_text}") from None
                time.sleep(0.01)
            else:
                return

    def stop(self) -> None:
        """End the listener; connections that are open live on, as with every sshd."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait()
            self._process = None

    def new_host_key(self) -> None:
        """Be another machine at the same address."""
        self.stop()
        for name in ("host_key", "host_key.pub"):
            (self.directory / name).unlink()
        _keygen(self.directory / "host_key")
        self.start()

    @property
    def host_key(self) -> str:
        return " ".join((self.directory / "host_key.pub").read_text().split()[:2])

    @property
    def secrets(self) -> dict[str, Secret]:
        return {"identity": Secret((self.directory / "identity").read_text())}

    def access(self, login: Literal["identity", "password", "agent"] = "identity") -> SshAccess:
        return SshAccess(host="127.0.0.1", port=self.port, user=self.user, host_key=self.host_key, login=login)


def _keygen(path: Path) -> None:
    command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", str(path)]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)


class Relay:
    """A TCP port before another one, which can be cut or go silent as a network does. Start it in a running loop."""

    def __init__(self, port: int) -> None:
        self.port = 0
        self.passed_bytes = 0
        self._to = port
        self._server: asyncio.Server | None = None
        self._pairs: list[asyncio.StreamWriter] = []
        self._passing = asyncio.Event()
        self._passing.set()
        self.cut_after_bytes: int | None = None

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self.cut()
        if self._server is not None:
            self._server.close()

    def cut(self) -> None:
        """Break what is open, in both directions."""
        self._passing.set()
        for writer in self._pairs:
            writer.transport.abort()
        self._pairs.clear()

    def silence(self) -> None:
        """Let nothing pass any more, without a word to either side."""
        self._passing.clear()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there_reader, there_writer = await asyncio.open_connection("127.0.0.1", self._to)
        self._pairs += [writer, there_writer]
        await asyncio.gather(
            self._pass(reader, there_writer, count=True), self._pass(there_reader, writer, count=False)
        )

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, count: bool) -> None:
        try:
            while data := await reader.read(1 << 16):
                await self._passing.wait()
                if count:
                    self.passed_bytes += len(data)
                    if self.cut_after_bytes is not None and self.passed_bytes > self.cut_after_bytes:
                        self.cut()
                        return
                writer.write(data)
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()
