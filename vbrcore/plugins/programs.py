"""Runs the programs of QEMU: never a shell string, bounded in time, memory and output, never left over."""

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from vbrcore.model.errors import ImageInvalid, ProgramMissing

_OUTPUT_BYTES = 4 * 1024 * 1024
_MESSAGE_BYTES = 2000
_GRACE_S = 60.0

# qemu-nbd takes a listening socket as descriptor 3, as from systemd, if LISTEN_PID is its own pid. The test ends it
# where we died before the kernel was told to send the signal of our death. A constant: nothing is put into it.
_START = 'test "$PPID" = "$1" || exit 1; shift; LISTEN_PID=$$ LISTEN_FDS=1 exec "$@" 3<&0 </dev/null'


def run_qemu_img(arguments: Sequence[str], *, timeout_s: int = 60, writes: bool = False) -> tuple[int, str]:
    """Run qemu-img and return its exit code and standard output. It may read what a hostile guest wrote.

    Raises `ImageInvalid` with its message on exit code 1 or at a limit, `ProgramMissing`.
    """
    _find("qemu-img")
    limits = [_find("prlimit"), f"--cpu={timeout_s}", f"--as={4 << 30}"]
    if not writes:  # nothing but its output
        limits.append(f"--fsize={_OUTPUT_BYTES}")
    with _memory_file() as output, _memory_file() as errors:
        try:
            code = subprocess.run(
                [*limits, "qemu-img", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=errors,
                timeout=timeout_s,
                check=False,
            ).returncode
        except subprocess.TimeoutExpired:
            raise ImageInvalid(f"qemu-img {arguments[0]} did not end within {timeout_s} s") from None
        if code < 0 or code == 1:
            raise ImageInvalid(_message(errors) or f"qemu-img {arguments[0]} ended with {code}")
        return code, os.pread(output, _OUTPUT_BYTES, 0).decode(errors="replace")


class QemuNbd:
    """A qemu-nbd that serves one image to this process alone, over connections made before it starts.

    Its socket lies in a directory of mode 0700 that is gone before the constructor returns. It ends with its last
    connection and is killed by the kernel when this process dies. `sockets` are the connections, not yet negotiated.
    """

    def __init__(self, image: str, *, read_only: bool, connections: int, options: Sequence[str] = ()) -> None:
        _find("qemu-nbd")
        command = [_find("setpriv"), "--pdeathsig", "KILL", "--", "/bin/sh", "-c", _START, "sh", str(os.getpid())]
        command += ["qemu-nbd", f"--shared={connections}", *(["--read-only"] if read_only else []), *options, image]
        self._process: subprocess.Popen[bytes] | None = None
        self._started = threading.Event()
        self._errors = os.memfd_create("qemu-nbd", os.MFD_CLOEXEC)
        listener, self.sockets = _listen(connections)
        # PR_SET_PDEATHSIG means the death of the thread that started the child: this one stays as long as the child.
        self._keeper = threading.Thread(target=self._keep, args=(command, listener), name="qemu-nbd", daemon=True)
        self._keeper.start()
        self._started.wait()
        if not self.pid:
            self.close()
            raise ProgramMissing("qemu-nbd cannot be started: too many processes or no memory")

    @property
    def pid(self) -> int:
        return self._process.pid if self._process is not None else 0

    def open_files(self) -> set[str]:
        """Return the regular files and devices that it has open (except for standard ones)."""
        found = set()
        for link in Path(f"/proc/{self.pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):
                target = str(link.readlink())
                if target.startswith("/") and not target.startswith(("/dev/null", "/memfd:")):
                    found.add(target)
        return found

    def wait(self) -> int:
        """Wait until it has ended by itself, at most a minute. Returns its exit code (negative: killed)."""
        self._keeper.join(_GRACE_S)
        if self._process is None or self._process.returncode is None:
            return -1
        return self._process.returncode

    def message(self) -> str:
        """Return the end of what it said on standard error."""
        return _message(self._errors)

    def close(self) -> None:
        """End it at once and close the connections that nobody took over. Idempotent."""
        for sock in self.sockets:
            sock.close()
        self.sockets.clear()
        if self._process is not None:
            self._process.kill()  # does nothing where it was waited for already
        self._keeper.join()
        if self._errors >= 0:
            os.close(self._errors)
            self._errors = -1

    def _keep(self, command: Sequence[str], listener: socket.socket) -> None:
        try:
            with listener:
                self._process = subprocess.Popen(
                    command, stdin=listener.fileno(), stdout=subprocess.DEVNULL, stderr=self._errors
                )
        except OSError:
            return  # the constructor sees that there is no process
        finally:
            self._started.set()
        self._process.wait()


def _listen(connections: int) -> tuple[socket.socket, list[socket.socket]]:
    """Return a listening socket and its first connections; its name exists only inside this call."""
    directory = tempfile.mkdtemp(prefix="vbr-", dir=os.environ.get("XDG_RUNTIME_DIR") or None)
    made: list[socket.socket] = []
    try:
        # Named through the directory's descriptor, because a socket's path may have 107 bytes only.
        descriptor = os.open(directory, os.O_PATH | os.O_DIRECTORY)
        try:
            name = f"/proc/self/fd/{descriptor}/nbd"
            made += [socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) for _ in range(connections + 1)]
            made[0].bind(name)
            made[0].listen(connections)
            for sock in made[1:]:
                sock.connect(name)
        finally:
            os.close(descriptor)
    except BaseException:
        for sock in made:
            sock.close()
        raise
    finally:
        shutil.rmtree(directory)
    return made[0], made[1:]


def _find(program: str) -> str:
    path = shutil.which(program)
    if path is None:
        raise ProgramMissing(f"the program {program} is not installed")
    return path


@contextlib.contextmanager
def _memory_file() -> Iterator[int]:
    descriptor = os.memfd_create("output", os.MFD_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _message(descriptor: int) -> str:
    """Return the last two lines of a program's messages as one."""
    size = os.fstat(descriptor).st_size
    text = os.pread(descriptor, _MESSAGE_BYTES, max(0, size - _MESSAGE_BYTES)).decode(errors="replace")
    return "; ".join([line.strip() for line in text.splitlines() if line.strip()][-2:])
