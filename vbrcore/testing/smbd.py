"""A real smbd of the account that runs the tests: on a port of the loopback, with files and passwords of its own."""

import contextlib
import getpass
import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

from vbrcore.model.place import PASSWORD, Place, Share

SMBD = shutil.which("smbd", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
PASSWORD_TEXT = "correct horse"  # noqa: S105 - of a server that lives as long as a test
_OWN_DIRECTORIES = ("private", "lock", "state", "cache", "pid", "ncalrpc")
_START_S = 20.0


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


class Smbd:
    """`start` begins it; `kill` ends it and all that it serves at once, as a power cut does."""

    def __init__(self, home: Path, *, options: str = "") -> None:
        self.home = home
        self.port = free_port()
        self.user = getpass.getuser()
        self._options = options
        self._shares: dict[str, Path] = {}
        self._process: subprocess.Popen[bytes] | None = None
        for name in _OWN_DIRECTORIES:
            (home / name).mkdir(parents=True, exist_ok=True)
        self._configure()
        command = ["smbpasswd", "-c", str(self._file), "-a", "-s", self.user]
        text = f"{PASSWORD_TEXT}\n{PASSWORD_TEXT}\n"
        subprocess.run(command, input=text, text=True, check=True, capture_output=True)

    def share(self, name: str, path: Path) -> None:
        """Serve a directory; asked for before `start`, or it is found when a client first asks for it."""
        self._shares[name] = path
        self._configure()
        if self._process is not None:
            self._process.send_signal(signal.SIGHUP)

    def place(self, name: str, directory: str = "") -> Place:
        share = Share("127.0.0.1", name, directory, self.port)
        return Place(share=share, username=self.user, secrets={PASSWORD: PASSWORD_TEXT})

    def start(self) -> None:
        assert SMBD is not None, "there is no smbd: script/setup installs it"
        command = [SMBD, "-s", str(self._file), "-F", "--no-process-group"]
        # Its children, one for each connection, die with it only if they are told: so they are a group.
        self._process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, process_group=0
        )
        deadline = time.monotonic() + _START_S
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
            except OSError:
                if time.monotonic() > deadline or self._process.poll() is not None:
                    raise
                time.sleep(0.05)
            else:
                return

    def signal(self, number: signal.Signals) -> None:
        """Send it to the server and to all that serve its connections."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)

    def kill(self) -> None:
        if self._process is not None:
            self.signal(signal.SIGKILL)
            self._process.wait()
            self._wait_for_group(self._process.pid)
            self._process = None

    def _wait_for_group(self, group: int) -> None:
        """Another one would take over what one that still dies has left half written in its databases."""
        deadline = time.monotonic() + _START_S
        with contextlib.suppress(ProcessLookupError):
            while time.monotonic() < deadline:
                os.killpg(group, 0)
                time.sleep(0.02)

    @property
    def _file(self) -> Path:
        return self.home / "smb.conf"

    def _configure(self) -> None:
        own = {
            "private dir": "private",
            "lock directory": "lock",
            "state directory": "state",
            "cache directory": "cache",
            "pid directory": "pid",
            "ncalrpc dir": "ncalrpc",
            "log file": "log",
        }
        lines = [
            "[global]",
            "workgroup = TEST",
            "server role = standalone server",
            f"smb ports = {self.port}",
            "interfaces = 127.0.0.1",
            "bind interfaces only = yes",
            f"passdb backend = tdbsam:{self.home}/private/passdb.tdb",
            "load printers = no",
            "disable spoolss = yes",
            *(f"{name} = {self.home}/{below}" for name, below in own.items()),
            *self._options.splitlines(),
        ]
        for name, path in self._shares.items():
            lines += [f"[{name}]", f"path = {path}", "read only = no"]
        self._file.write_text("\n".join(lines) + "\n")
