"""A PostgreSQL of one's own for a benchmark: a new cluster in a directory, reached by a Unix socket only."""

import os
import pwd
import shutil
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self

_USERS = ("postgres", "nobody")  # it refuses to run as root


class PostgresServer:
    """Settings are those of a new cluster, fsync among them. Raises FileNotFoundError where a program is missing."""

    def __init__(self, programs: Path | None = None) -> None:
        self._initdb, self._pg_ctl = (_program(name, programs) for name in ("initdb", "pg_ctl"))
        self._user = _user() if os.geteuid() == 0 else None
        self.directory = Path(tempfile.mkdtemp(prefix="vbrengine-"))
        if self._user is not None:
            shutil.chown(self.directory, self._user)

    def __enter__(self) -> Self:
        try:
            self._run(self._initdb, "-D", self._data, "-A", "trust", "-U", "bench", "-E", "UTF8", "--no-instructions")
            self.start()
        except BaseException:
            shutil.rmtree(self.directory, ignore_errors=True)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        shutil.rmtree(self.directory, ignore_errors=True)

    @property
    def _data(self) -> str:
        return str(self.directory / "data")

    def dsn(self, database: str) -> str:
        return f"host={self.directory} user=bench dbname={database}"

    def start(self) -> None:
        options = f"-c listen_addresses='' -c unix_socket_directories='{self.directory}'"
        log = str(self.directory / "log")
        self._run(self._pg_ctl, "-D", self._data, "-o", options, "-l", log, "-w", "start")

    def stop(self) -> None:
        """End it as a crash does: connections are cut off, and the next start replays the log."""
        self._run(self._pg_ctl, "-D", self._data, "-m", "immediate", "-w", "stop")

    def _run(self, *command: str) -> None:
        done = subprocess.run(
            command,
            check=False,
            user=self._user,
            cwd=self.directory,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,  # not a pipe: the server would inherit and hold it
            stderr=subprocess.DEVNULL,
        )
        if done.returncode:
            raise RuntimeError(f"{command[0]} {command[-1]} ended with {done.returncode}; see {self.directory}/log")


def _program(name: str, programs: Path | None) -> str:
    found = shutil.which(name, path=str(programs) if programs else None)
    if found is None:
        raise FileNotFoundError(f"there is no {name} in {programs or 'PATH'}: name the directory with --postgres")
    return found


def _user() -> str:
    known = {entry.pw_name for entry in pwd.getpwall()}
    return next(name for name in _USERS if name in known)
