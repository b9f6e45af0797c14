"""What there is on a server: asked of it by one small program, which needs nothing there but a Python to run it."""

import asyncio
import secrets
import sys
import time
from typing import Final

import msgspec

from vbrcore.model.errors import CommandFailed, ServerUnreachable
from vbrcore.model.inventory import Server
from vbrcore.model.serverfacts import ServerFacts
from vbrcore.transport.ssh import CONNECT_S, SshConnection, SshProgram

SURVEY_S: Final = 30.0
_DIAL_S: Final = 5.0
_MARK: Final = b"vbrcore-survey:"
_MOST_NOISE_LINES: Final = 1000
# One constant text for any Python 3, without single quotes. What varies comes as one line of JSON on its stdin. It
# waits a little for whoever dials the port that it names, and tells him the word that proves it.
_PROGRAM: Final = """
import getpass, json, os, platform, socket, sys, tempfile, time
asked = json.loads(sys.stdin.readline())
base = os.environ.get("XDG_CACHE_HOME", "")
cache = os.path.join(base if base.startswith("/") else os.path.expanduser("~/.cache"), "vbrcore")
found = {"machine": platform.machine(), "python": platform.python_version(), "cores": os.cpu_count() or 1}
found["user"] = getpass.getuser()
found["cache"] = cache
system = platform.system() + " " + platform.release()
try:
    with open("/etc/os-release") as file:
        named = dict(line.rstrip().split("=", 1) for line in file if "=" in line)
    system = named.get("PRETTY_NAME", "").strip(chr(34)) + " (" + system + ")"
except OSError:
    pass
found["os"] = system
try:
    os.makedirs(cache, mode=0o700, exist_ok=True)
    with tempfile.TemporaryFile(dir=cache) as file:
        file.write(b"x")
    space = os.statvfs(cache)
    found["free_bytes"] = space.f_bavail * space.f_frsize
    found["bundles"] = sorted(name for name in os.listdir(cache) if not name.startswith("."))
except OSError as error:
    found["cache_error"] = str(error)
free, door = 0, None
low, high = asked["ports"]
for port in range(low, high + 1):
    one = socket.socket()
    one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        one.bind(("", port))
        one.listen(1)
    except OSError:
        one.close()
        continue
    free += 1
    if door is None:
        door = one
        found["port"] = port
    else:
        one.close()
found["ports_free"] = free
found["time"] = time.time()
print("vbrcore-survey:" + json.dumps(found), flush=True)
if door is not None and asked["word"]:
    door.settimeout(asked["wait_s"])
    try:
        peer, _ = door.accept()
        peer.sendall(asked["word"].encode())
        peer.close()
    except OSError:
        pass
"""
# The newest Python that a mover can run on, else any, which can at least say which one it is.
_COMMAND: Final = (
    "exec sh -c 'for found in python3.13 python3.12 python3.11 python3; do"
    ' if command -v "$found" >/dev/null 2>&1; then exec "$found" -c "$0"; fi;'
    " done; echo vbrcore-survey:none; uname -sr; uname -m' '" + _PROGRAM + "'"
)


class _Said(msgspec.Struct, frozen=True):
    """The program's answer."""

    os: str
    machine: str
    user: str
    python: str
    cores: int
    cache: str
    ports_free: int
    time: float
    cache_error: str = ""
    free_bytes: int = 0
    bundles: tuple[str, ...] = ()
    port: int = 0


async def survey(connection: SshConnection, server: Server, *, connect_s: float) -> ServerFacts:
    """Ask a server over its open connection, and dial one of its data ports from here, unless it only dials itself.

    Raises `ServerUnreachable`, `CommandFailed`.
    """
    program = await connection.start(_COMMAND)
    try:
        async with asyncio.timeout(SURVEY_S):
            return await _ask(program, server, connection.where, connect_s)
    except TimeoutError as error:
        raise CommandFailed(f"{connection.where}: it did not say what is there within {SURVEY_S:g} s") from error
    finally:
        program.abort()


async def survey_here(server: Server) -> ServerFacts:
    """Ask this machine. Raises `CommandFailed`."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        _PROGRAM,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    asked = msgspec.json.encode({"ports": server.ports, "word": "", "wait_s": 0}) + b"\n"
    output, words = await process.communicate(asked)
    if process.returncode:
        raise CommandFailed(f"server {server.name}: {words.decode(errors='replace').strip()}")
    return _facts(
        _said(output.partition(_MARK)[2], f"server {server.name}"), connect_s=0.0, offset_s=0.0, reach_error=""
    )


async def connecting_takes_s(host: str, port: int) -> float:
    """Return how long a TCP connection takes to be made. Raises `ServerUnreachable`."""
    begun = time.monotonic()
    try:
        async with asyncio.timeout(CONNECT_S):
            _, writer = await asyncio.open_connection(host, port)
    except (OSError, TimeoutError) as error:
        raise ServerUnreachable(f"{host} port {port}: {error or 'no answer in time'}") from error
    took_s = time.monotonic() - begun
    writer.close()
    return took_s


async def _ask(program: SshProgram, server: Server, where: str, connect_s: float) -> ServerFacts:
    word = "" if server.dials_only else secrets.token_hex(16)
    program.write(msgspec.json.encode({"ports": server.ports, "word": word, "wait_s": _DIAL_S + 1}) + b"\n")
    asked_at = time.time()
    line = await _answer(program)
    answered_at = time.time()
    if line == b"none":
        system, machine = (await program.readline()).decode(errors="replace"), await program.readline()
        return ServerFacts(os=system.strip(), machine=machine.decode(errors="replace").strip(), connect_s=connect_s)
    if not line:
        await program.ended(1.0)
        raise CommandFailed(f"{where}: {program.stderr_tail or 'it did not say what is there'}")
    said = _said(line, where)
    reach_error = await _dial(server.data_address, said.port, word) if word and said.port else ""
    # The program's start lies before the clock was read, the way back after it: the later end is the nearer one.
    return _facts(
        said,
        connect_s=connect_s,
        offset_s=0.0 if asked_at <= said.time <= answered_at else said.time - answered_at,
        reach_error=reach_error,
    )


async def _answer(program: SshProgram) -> bytes:
    """Return what stands behind the mark; what a login shell prints before it is passed over."""
    for _ in range(_MOST_NOISE_LINES):
        line = await program.readline()
        _, mark, answer = line.partition(_MARK)
        if mark or not line:
            return answer.strip()
    return b""


def _said(line: bytes, where: str) -> _Said:
    try:
        return msgspec.json.decode(line, type=_Said)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise CommandFailed(f"{where}: what it said cannot be read: {error}") from error


def _facts(said: _Said, *, connect_s: float, offset_s: float, reach_error: str) -> ServerFacts:
    return ServerFacts(
        os=said.os,
        machine=said.machine,
        user=said.user,
        python=said.python,
        connect_s=connect_s,
        clock_offset_s=offset_s,
        cache=said.cache,
        cache_error=said.cache_error,
        free_bytes=said.free_bytes,
        bundle=" ".join(said.bundles),
        cores=said.cores,
        ports_free=said.ports_free,
        reached_port=said.port,
        reach_error=reach_error,
    )


async def _dial(address: str, port: int, word: str) -> str:
    """Dial a data port; return why that did not lead to the program there ("": it did)."""
    try:
        async with asyncio.timeout(_DIAL_S):
            reader, writer = await asyncio.open_connection(address, port)
            try:
                heard = await reader.read(len(word))
            finally:
                writer.close()
    except TimeoutError:
        return f"{address} port {port}: no answer within {_DIAL_S:g} s"
    except OSError as error:
        return f"{address} port {port}: {error.strerror or error}"
    return "" if heard == word.encode() else f"{address} port {port}: another machine answers"
