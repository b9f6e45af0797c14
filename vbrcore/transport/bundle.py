"""The archive that travels to another server: the mover, the wheels it needs, the mover half of each plugin.

Content-addressed: its digest is that of its manifest, which has the digest of every file in it. Built once for the same
files and kept in `cache/bundle` of the home.
"""

import hashlib
import importlib.util
import json
import os
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO

import msgspec

import vbrcore
from vbrcore.model.errors import PluginBroken, ServerUnsuitable, VbrError
from vbrcore.plugins.loader import MOVERS_FILE, list_plugins, load, mover_module
from vbrcore.transport.boot import MANIFEST
from vbrcore.transport.wheels import MINORS, Content, Platform, Wanted, contents

# What a mover and a transport import of vbrcore; a test holds that they import nothing else of it.
PARTS = ("model", "storage", "backupfile", "chain", "secrets", "plugins", "mover", "transport")
LEFT_OUT = ("transport/ssh.py", "transport/bundle.py", "transport/wheels.py", "transport/remote.py", "plugins/hooks.py")
WANTED = (
    Wanted("msgspec"),
    Wanted("zstandard", only=("zstandard/__init__", "zstandard/backend_c")),
    Wanted("xxhash"),
    Wanted("blake3"),
    Wanted("lmdb"),
    Wanted("cryptography"),
    Wanted("cffi", only=("_cffi_backend",)),
    Wanted("psutil"),
    Wanted("smbprotocol"),  # a gateway's mover writes to the share itself
    Wanted("pyspnego"),
    Wanted("smbprotocol", only=("smbprotocol/",)),
    Wanted("pyspnego", only=("spnego/",)),
)
_ZIP_TIME = (1980, 1, 1, 0, 0, 0)
_KEPT = 8


class Bundle(msgspec.Struct, frozen=True):
    """An archive that is ready to be sent."""

    digest: str
    path: str
    archive_sha256: str
    archive_bytes: int


class MoverHalf(msgspec.Struct, frozen=True):
    """What a plugin sends along: the module with its readers and writers, its package, the distributions it needs."""

    plugin_id: str
    module: str
    package: str
    wheels: tuple[str, ...] = ()


def platform_of(facts: object, where: str) -> Platform:
    """Return what a server is, from what its Python said. Raises `ServerUnsuitable` naming what does not fit."""
    try:
        said = msgspec.convert(facts, _Facts)
    except msgspec.ValidationError as error:
        raise ServerUnsuitable(f"{where} said what cannot be understood: {error}") from error
    major, minor = said.python[:2]
    name, _, version = said.libc.partition(" ")
    if (said.system, said.implementation, name) != ("Linux", "cpython", "glibc"):
        raise ServerUnsuitable(f"{where} has {said.implementation} on {said.system} with {said.libc or 'another libc'}")
    if major != 3 or minor not in MINORS:
        raise ServerUnsuitable(f"{where} has Python {major}.{minor}")
    first, second = version.split(".")[:2]
    return Platform(minor, said.machine, (int(first), int(second)))


class _Facts(msgspec.Struct):
    python: tuple[int, int, int]
    implementation: str
    system: str
    machine: str
    libc: str


def mover_halves() -> list[MoverHalf]:
    """Return what every plugin that can be used sends along."""
    halves = []
    for entry in list_plugins():
        if entry.state == "ok":
            try:
                module = mover_module(entry.id)
            except VbrError:  # `plugins list` says so; its readers are missed only by its own tasks
                continue
            info = load(entry.id).info
            halves.append(MoverHalf(entry.id, module, info.mover_package or module.split(".")[0], info.mover_wheels))
    return halves


def collect(platform: Platform, wheels: Path, halves: Iterable[MoverHalf]) -> dict[str, Content | bytes]:
    """Return everything that goes into a bundle by its name there. Raises `WheelsMissing`, `PluginBroken`."""
    halves = list(halves)
    found: dict[str, Content | bytes] = {}
    base = Path(vbrcore.__file__).parent
    found["vbrcore/__init__.py"] = Content("vbrcore/__init__.py", base / "__init__.py")
    found["__main__.py"] = Content("__main__.py", base / "transport" / "start.py")
    for part in PARTS:
        for name, path in _modules(base / part):
            if f"{part}/{name}" not in LEFT_OUT:
                found[f"vbrcore/{part}/{name}"] = Content(f"vbrcore/{part}/{name}", path)
    wanted = dict.fromkeys(WANTED)
    for half in halves:
        spec = importlib.util.find_spec(half.package)
        if spec is None or not spec.submodule_search_locations:
            raise PluginBroken(f"plugin {half.plugin_id!r}: there is no package {half.package}")
        for name, path in _modules(Path(spec.submodule_search_locations[0])):
            found[f"{half.package}/{name}"] = Content(f"{half.package}/{name}", path)
        wanted |= dict.fromkeys(Wanted(name) for name in half.wheels)
    found |= {content.name: content for content in contents(wanted, platform, wheels)}
    found[MOVERS_FILE] = json.dumps({half.plugin_id: half.module for half in halves}, sort_keys=True).encode()
    return found


def _modules(directory: Path) -> Iterator[tuple[str, Path]]:
    for path in sorted(directory.rglob("*.py")):
        yield path.relative_to(directory).as_posix(), path


class Bundles:
    """The bundles of one home. Everything here blocks; call it from a thread."""

    def __init__(self, cache: Path) -> None:
        self._directory = cache / "bundle"
        self._wheels = cache / "wheels"

    def bundle_for(self, platform: Platform) -> Bundle:
        """Return the bundle for a server, built where there is none of the same files yet.

        Raises `WheelsMissing`, `PluginBroken`.
        """
        found = collect(platform, self._wheels, mover_halves())
        key = _key(found)
        note = self._directory / f"{key}.json"
        try:
            bundle = msgspec.json.decode(note.read_bytes(), type=Bundle)
            if Path(bundle.path).stat().st_size == bundle.archive_bytes:
                return bundle
        except (OSError, msgspec.DecodeError):
            pass  # there is none yet, or what is there cannot be used: it is built anew
        return self._build(found, note)

    def _build(self, found: dict[str, Content | bytes], note: Path) -> Bundle:
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        data = {
            name: content if isinstance(content, bytes) else content.read() for name, content in sorted(found.items())
        }
        files = [[name, hashlib.sha256(body).hexdigest()] for name, body in data.items()]
        manifest = json.dumps({"version": vbrcore.__version__, "files": files}).encode()
        digest = hashlib.sha256(manifest).hexdigest()
        path = self._directory / f"{digest}.zip"
        self._write(path, lambda file: _pack(file, {MANIFEST: manifest, **data}))
        archive = path.read_bytes()
        bundle = Bundle(digest, str(path), hashlib.sha256(archive).hexdigest(), len(archive))
        self._write(note, lambda file: file.write(msgspec.json.encode(bundle)))
        self._clear()
        return bundle

    def _write(self, path: Path, fill: Callable[[IO[bytes]], object]) -> None:
        """Write a file that is seen whole or not at all."""
        descriptor, name = tempfile.mkstemp(dir=self._directory, prefix=".new-")
        with os.fdopen(descriptor, "wb") as file:
            fill(file)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)

    def _clear(self) -> None:
        """Remove what older versions have left; a manager that is just sending one has it open or builds it anew."""
        by_age = sorted(self._directory.glob("*.json"), key=lambda path: path.stat().st_mtime, reverse=True)
        for note in by_age[_KEPT:]:
            note.unlink(missing_ok=True)
        kept = {msgspec.json.decode(note.read_bytes(), type=Bundle).path for note in by_age[:_KEPT]}
        for archive in self._directory.glob("*.zip"):
            if str(archive) not in kept:
                archive.unlink(missing_ok=True)


def _key(found: dict[str, Content | bytes]) -> str:
    """Return what names this set of files without reading them: their names, places, sizes and times."""
    digest = hashlib.sha256()
    for name, content in sorted(found.items()):
        if isinstance(content, bytes):
            digest.update(f"{name}\0{content!r}\n".encode())
        else:
            status = content.path.stat()
            digest.update(f"{name}\0{content.path}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def _pack(file: IO[bytes], data: dict[str, bytes]) -> None:
    """Write the same archive for the same files: sorted, with one time and one mode."""
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as archive:
        for name, body in sorted(data.items()):
            info = zipfile.ZipInfo(name, _ZIP_TIME)
            info.compress_type = zipfile.ZIP_DEFLATED
            info.external_attr = 0o600 << 16
            archive.writestr(info, body)
