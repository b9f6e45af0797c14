"""The home directory: all state of one deployment, and how a command finds it and the socket of its service."""

import os
import stat
from pathlib import Path

from vbrcore.model.errors import PermissionRefused
from vbrcore.model.ids import file_name_part, short_id
from vbrcore.model.session import Session

HOME_VARIABLE = "VBRCORE_HOME"
SYSTEM_HOME = Path("/var/lib/vbrcore")
SYSTEM_SOCKET = Path("/run/vbrcore/service.sock")
SOCKET_NAME = "service.sock"
LONGEST_SOCKET_PATH_BYTES = 107  # sun_path, without its final zero
_SUBDIRECTORIES = ("ca", "cache", "log", "repository", "run")
_GROUP_AND_OTHERS = 0o077


class Home:
    """Paths below one home directory. Nothing is made or checked before `prepare`."""

    def __init__(self, path: Path) -> None:
        self.path = Path(os.path.abspath(path))  # noqa: PTH100 - resolve() would follow links that the user chose

    @property
    def catalog(self) -> Path:
        return self.path / "catalog.db"

    @property
    def configuration(self) -> Path:
        """The administrator's own file; see docs."""
        return self.path / "service.toml"

    @property
    def run(self) -> Path:
        return self.path / "run"

    @property
    def lock(self) -> Path:
        """Whoever holds the lock of this file is the service of this home."""
        return self.run / "service.lock"

    @property
    def socket_note(self) -> Path:
        """Names the socket where it is not in `run/`."""
        return self.run / "service.socket"

    @property
    def service_log(self) -> Path:
        return self.path / "log" / "service.log"

    @property
    def default_repository(self) -> Path:
        return self.path / "repository"

    def session_log(self, session: Session) -> Path:
        """Return `log/<job>/<session>.jsonl`; a session without a job stands below its kind."""
        folder = f"{file_name_part(session.name)}_{short_id(session.job_id)}" if session.job_id else session.kind
        return self.path / "log" / folder / f"{session.session_id}.jsonl"

    def socket(self) -> Path:
        """Return where the service of this home listens, as noted by it."""
        if self.path == SYSTEM_HOME and SYSTEM_SOCKET.exists():
            return SYSTEM_SOCKET
        try:
            return Path(self.socket_note.read_text(encoding="utf-8").strip())
        except OSError:  # no note, or none that we may read: the normal place, whose own error is the clearer one
            return self.run / SOCKET_NAME

    def prepare(self) -> None:
        """Make the directory and those in it; raises `PermissionRefused` where others could read or write it."""
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            status = self.path.stat()
            if status.st_uid != os.geteuid():
                raise PermissionRefused(f"{self.path} belongs to user {status.st_uid}, not to {os.geteuid()}")
            if (mode := stat.S_IMODE(status.st_mode)) & _GROUP_AND_OTHERS:
                if any(self.path.iterdir()):
                    raise PermissionRefused(f"{self.path} has mode {mode:04o}: others can enter it; it must be 0700")
                self.path.chmod(0o700)  # made for us just now, and nothing is in it yet
            for name in _SUBDIRECTORIES:
                (self.path / name).mkdir(mode=0o700, exist_ok=True)
        except (PermissionError, FileExistsError, NotADirectoryError) as error:
            raise PermissionRefused(f"{self.path} cannot be used as a home: {error.strerror}") from error


def find_home(named: str | Path | None = None) -> Home:
    """Return the home that was named, or `VBRCORE_HOME`, or that of the installed service if its socket may be
    opened, or the account's own.
    """
    if named:
        return Home(Path(named))
    if variable := os.environ.get(HOME_VARIABLE):
        return Home(Path(variable))
    if os.geteuid() == 0 or os.access(SYSTEM_SOCKET, os.R_OK | os.W_OK):
        return Home(SYSTEM_HOME)
    return Home(Path.home() / ".local" / "share" / "vbrcore")
