"""What runs first on a managed server, with nothing but its Python: makes sure of the bundle, then becomes it.

Its whole text is a constant argument of `python3 -c`, so it has no apostrophe and no backslash, and it imports the
standard library only. It talks in lines of JSON behind a mark, because a login shell may print what it likes before:

    there -> here   what this server is
    here -> there   {"digest", "archive_sha256", "archive_bytes", "words"}
    there -> here   {"have": false}, then the archive follows as plain bytes; {"have": true}: the transport is next

A bundle is a directory named by the digest of its manifest, which has the digest of each file. All are checked at
every start, so that nothing half-written or damaged is ever run. Locks: who runs a bundle holds `.lock` in it shared;
what nobody holds may be cleared away.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any, Final

MARK: Final = "vbrcore-boot:"
MANIFEST: Final = "vbrcore-bundle.json"
KEPT: Final = 3
YOUNG_S: Final = 600.0
_PART_BYTES: Final = 1 << 20


def say(message: dict[str, Any]) -> None:
    """Tell the manager one thing."""
    data = memoryview((MARK + json.dumps(message) + chr(10)).encode())
    while data:
        data = data[os.write(1, data) :]


def read_line() -> bytes:
    """Read to the end of a line and not one byte further: what follows belongs to others."""
    line = bytearray()
    while not line.endswith(b"%c" % 10):
        part = os.read(0, 1)
        if not part:
            sys.exit(0)  # the manager is gone
        line += part
    return bytes(line)


def cache_directory() -> Path:
    """Return the place of bundles, private to this account."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    path = Path(base if base.startswith("/") else os.path.expanduser("~/.cache")) / "vbrcore"  # noqa: PTH111
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    return path


def locked(directory: Path, how: int) -> int:
    """Open and lock the lock file of a directory; -1 where it is not there, or held by others."""
    try:
        descriptor = os.open(directory / ".lock", os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return -1
    try:
        fcntl.flock(descriptor, how | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(descriptor), (directory / ".lock").stat()):
            return descriptor
    except OSError:
        pass
    os.close(descriptor)
    return -1


def intact(directory: Path, digest: str) -> bool:
    """Return whether everything of a bundle is there as it was sent."""
    try:
        manifest = (directory / MANIFEST).read_bytes()
        if hashlib.sha256(manifest).hexdigest() != digest:
            return False
        return all(
            hashlib.sha256((directory / name).read_bytes()).hexdigest() == wanted
            for name, wanted in json.loads(manifest)["files"]
        )
    except OSError:
        return False


def private_directory(cache: Path) -> tuple[Path, int]:
    """Make a directory to fill, and hold its lock."""
    path = cache / f".new-{os.getpid()}-{os.urandom(8).hex()}"
    path.mkdir(mode=0o700)
    descriptor = os.open(path / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(descriptor, fcntl.LOCK_SH)
    return path, descriptor


def receive(path: Path, length: int, digest: str) -> None:
    """Write the archive from stdin; exit where it ends early, raise ValueError where it is another one."""
    found = hashlib.sha256()
    with path.open("wb") as file:
        while length:
            part = os.read(0, min(length, _PART_BYTES))
            if not part:
                sys.exit(0)
            found.update(part)
            file.write(part)
            length -= len(part)
    if found.hexdigest() != digest:
        raise ValueError("what arrived is not the archive that was sent")


def unpack(archive: Path, directory: Path) -> None:
    """Unpack into the directory, durably."""
    import zipfile  # noqa: PLC0415 - only where a bundle arrives

    root = os.path.realpath(directory)
    with zipfile.ZipFile(archive) as bundle:
        for name in bundle.namelist():
            target = os.path.realpath(directory / name)
            if not target.startswith(root + "/"):
                raise ValueError(f"{name} would lie outside the bundle")
            os.makedirs(os.path.dirname(target), mode=0o700, exist_ok=True)  # noqa: PTH103, PTH120
            with bundle.open(name) as packed, open(target, "wb") as file:  # noqa: PTH123
                shutil.copyfileobj(packed, file, _PART_BYTES)
                file.flush()
                os.fsync(file.fileno())
    for place, _, _ in os.walk(directory):
        sync_directory(place)


def sync_directory(path: "str | Path") -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    os.fsync(descriptor)
    os.close(descriptor)


def take_in(cache: Path, wanted: dict[str, Any]) -> int:
    """Receive the bundle and put it in its place whole; return its lock, held."""
    path, descriptor = private_directory(cache)
    try:
        receive(path / ".archive", wanted["archive_bytes"], wanted["archive_sha256"])
        unpack(path / ".archive", path)
        os.unlink(path / ".archive")  # noqa: PTH108
        if not intact(path, wanted["digest"]):
            raise ValueError("the archive does not hold the bundle that was announced")
        try:
            os.rename(path, cache / wanted["digest"])  # noqa: PTH104 - this fails where another one came first
        except OSError:
            shutil.rmtree(path)
            os.close(descriptor)
            return locked(cache / wanted["digest"], fcntl.LOCK_SH)
        sync_directory(cache)
    except BaseException:
        shutil.rmtree(path, ignore_errors=True)
        raise
    return descriptor


def hold(cache: Path, digest: str) -> int:
    """Return the lock of an intact bundle, held; -1: there is none. A damaged one is put aside."""
    descriptor = locked(cache / digest, fcntl.LOCK_SH)
    if descriptor >= 0 and intact(cache / digest, digest):
        os.utime(cache / digest / ".lock")
        return descriptor
    if os.path.lexists(cache / digest):
        os.rename(cache / digest, cache / f".old-{os.getpid()}-{os.urandom(8).hex()}")  # noqa: PTH104
    if descriptor >= 0:
        os.close(descriptor)
    return -1


def clear(cache: Path, digest: str) -> None:
    """Remove what nobody uses: older bundles beyond the newest few, and what interrupted starts have left."""
    bundles = [path for path in cache.iterdir() if len(path.name) == len(digest) and path.name != digest]
    with contextlib.suppress(OSError):
        bundles.sort(key=lambda path: (path / ".lock").stat().st_mtime, reverse=True)
    for path in bundles[KEPT - 1 :]:
        descriptor = locked(path, fcntl.LOCK_EX)
        if descriptor >= 0:
            os.rename(path, cache / f".old-{os.getpid()}-{os.urandom(8).hex()}")  # noqa: PTH104
            os.close(descriptor)
    for path in [*cache.glob(".old-*"), *cache.glob(".new-*")]:
        with contextlib.suppress(OSError):
            if path.name.startswith(".new-") and time.time() - path.stat().st_mtime < YOUNG_S:
                continue  # whoever makes it may not have its lock yet
            descriptor = locked(path, fcntl.LOCK_EX)
            if descriptor >= 0 or not os.path.lexists(path / ".lock"):
                shutil.rmtree(path)
            if descriptor >= 0:
                os.close(descriptor)


def facts() -> dict[str, Any]:
    """Return what the manager must know to choose a bundle."""
    try:
        libc = os.confstr("CS_GNU_LIBC_VERSION") or ""
    except (ValueError, OSError):
        libc = ""
    return {
        "python": list(sys.version_info[:3]),
        "implementation": sys.implementation.name,
        "system": os.uname().sysname,
        "machine": os.uname().machine,
        "libc": libc,
    }


def main() -> None:
    """Become the transport."""
    say(facts())
    wanted = json.loads(read_line())
    digest = wanted["digest"]
    try:
        cache = cache_directory()
        descriptor = hold(cache, digest)
        if descriptor < 0:
            say({"have": False})
            descriptor = take_in(cache, wanted)
        if descriptor < 0:
            raise ValueError("the bundle vanished while it was put in its place")
        clear(cache, digest)
    except (OSError, ValueError) as error:
        say({"error": f"{type(error).__name__}: {error}"})
        sys.exit(1)
    say({"have": True})
    os.set_inheritable(descriptor, True)
    place = str(cache / digest)
    words = [sys.executable, "-I", "-S", place, *wanted["words"], "--bundle", place, "--cache", str(cache)]
    os.execv(sys.executable, words)  # noqa: S606 - no shell is what is wanted


if __name__ == "__main__":
    main()
