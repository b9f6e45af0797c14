#!/usr/bin/env python3
"""Get disks out of vbrcore's backup files where vbrcore itself is not at hand.

In an emergency: copy this file and the chain's directory to any machine with Python 3.9 or later, and

    pip install zstandard blake3 cryptography    (blake3 proves contents; cryptography >= 44 is for encrypted chains)
    python3 vbf_extract.py list DIRECTORY
    python3 vbf_extract.py extract DIRECTORY --point POINT --disk DISK --output disk.raw
    python3 vbf_extract.py verify DIRECTORY

Name single .vbf files where only some are left: what a lost file held alone is lost, all else is found. POINT is an id
or its beginning, DISK a name, a disk id or the number that `list` shows. Encrypted chains open with `--passphrase-file
FILE` (one line) or `--key-file FILE`. `--output -` is standard output. The image is raw (`qemu-img convert -f raw`
makes others of it), a file that did not exist before, and removed if it is not whole. Backup files are only read.
Exit codes: 0 all right; 1 damaged or missing; 2 wrong usage, or a package or passphrase is lacking. Each failure is one
line on standard error. Written from docs/FORMAT.md, whose sections it names; no code is vbrcore's.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import functools
import hashlib
import hmac
import importlib
import itertools
import json
import os
import signal
import struct
import sys
from collections import namedtuple
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

MIB, BODY_START = 1024 * 1024, 128 * 1024
RAW_MAX, STORED_MAX = 64 * MIB, 65 * MIB  # what does not compress grows a little, and encryption adds 44 bytes
ZERO, ENCRYPTED = bytes(32), 1  # the feature bit of a slot and the flag bit of an extent
ARGON2_MAX = {"memory_kib": 1024 * 1024, "passes": 16, "lanes": 16}
# What comes of records whose fields are absent, of another type or out of bounds.
MALFORMED = (LookupError, TypeError, ValueError, AttributeError, OverflowError, RecursionError, MemoryError)
# Padding stands for fields that are checked elsewhere or not needed. `number`: a disk's place in its point, from 0.
SLOT = struct.Struct("<8xIIQ4xI16s16s16sQQQ32s8xI")
Slot = namedtuple(  # noqa: PYI024
    "Slot",
    "version features sequence block_size file_id chain_id generation_id body_end offset length sha256 alignment",
)
EXTENT, ROW = struct.Struct("<4sIQ32sIBBHQ"), struct.Struct("<32sQIIQBBH4x")
Row = namedtuple("Row", "digest offset stored_length raw_length xxh3 kind codec flags")  # noqa: PYI024
Disk = namedtuple("Disk", "number disk_id name size_bytes root root_mac")  # noqa: PYI024
troubles: list[str] = []  # what was wrong and yet not the end


class Damage(Exception):
    """Something is damaged or missing: exit code 1."""


class Usage(Exception):
    """Something that the user can mend: exit code 2."""


def say(text: object, *, failure: bool = False) -> None:
    """Print one line; what files say does not reach a terminal as control characters."""
    stream = sys.stderr if failure else sys.stdout
    line = "".join(char if char.isprintable() else "?" for char in str(text))
    stream.write(line.encode(stream.encoding, "replace").decode(stream.encoding) + "\n")


def note(text: object) -> None:
    say(f"vbf_extract: {text}", failure=True)


def trouble(text: object) -> None:
    troubles.append(str(text))
    note(text)


@contextlib.contextmanager
def at(place: object) -> Iterator[None]:
    """Add the place to every failure inside."""
    try:
        yield
    except Damage as damage:
        raise Damage(f"{place}: {damage}") from None
    except (OSError, *MALFORMED) as error:
        raise Damage(f"{place}: {getattr(error, 'strerror', None) or repr(error)}") from None


@functools.lru_cache(maxsize=100)
def optional(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


def needed(name: str) -> Any:
    if optional(name) is None:
        raise Usage(f"a Python package is needed: pip install '{'cryptography>=44' if '.' in name else name}'")
    return optional(name)


def binary(text: str, *lengths: int) -> bytes:
    data = base64.b64decode(text, validate=True)
    if lengths and len(data) not in lengths:
        raise ValueError(f"{len(data)} bytes in base64, not {lengths[-1]}")
    return data


def hkdf(key: bytes | None, info: bytes, salt: bytes = b"") -> bytes:
    if key is None:
        raise Usage("the chain is encrypted: give --passphrase-file or --key-file")
    return hmac.digest(hmac.digest(salt or bytes(32), key, "sha256"), info + b"\1", "sha256")


def decrypted(key: bytes, sealed: bytes, associated: bytes) -> bytes:
    """Undo AES-256-GCM of nonce, ciphertext and tag."""
    aes = needed("cryptography.hazmat.primitives.ciphers.aead").AESGCM(key)
    try:
        return bytes(aes.decrypt(sealed[:12], sealed[12:], associated))
    except (ValueError, needed("cryptography.exceptions").InvalidTag):
        raise Damage("changed, or encrypted with another key") from None


def slot_key(slot: dict[str, Any], secret: bytes) -> bytes:
    salt = binary(slot["salt"])
    if slot["kdf"] == "keyfile":
        return hkdf(secret, b"vbrcore keyfile", salt)
    memory_kib, passes, lanes = costs = [int(slot[name]) for name in ARGON2_MAX]
    if not 16 <= len(salt) <= 64 or any(cost > most for cost, most in zip(costs, ARGON2_MAX.values())):  # noqa: B905
        raise Damage(f"out of bounds: salt of {len(salt)} bytes, {memory_kib} KiB, {passes} passes, {lanes} lanes")
    kdf = needed("cryptography.hazmat.primitives.kdf.argon2").Argon2id
    try:
        return bytes(kdf(salt=salt, length=32, iterations=passes, lanes=lanes, memory_cost=memory_kib).derive(secret))
    except needed("cryptography.exceptions").UnsupportedAlgorithm as error:
        raise Usage(f"argon2id: {error}") from None


def unlock(chain_id: bytes, slots: list[dict[str, Any]], secrets: dict[str, bytes]) -> bytes:
    """Section 7: return the chain key. `secrets` are the user's, by the `kdf` of the key slots that they are for."""
    failures = []
    for slot in {json.dumps(slot, sort_keys=True): slot for slot in slots}.values():
        try:
            with at(f"key slot {slot.get('slot_id')}"):
                if slot["kdf"] in secrets:
                    key = slot_key(slot, secrets[slot["kdf"]])
                    return decrypted(key, binary(slot["nonce"], 12) + binary(slot["wrapped"], 48), chain_id)
        except Damage as damage:
            failures.append(str(damage))
    raise Usage(f"chain {chain_id.hex()}: what was given does not open it: {'; '.join(failures[:4]) or 'no such slot'}")


class Point:
    """One machine at one moment (section 4)."""

    def __init__(self, said: dict[str, Any], generation: Generation, block_size: int) -> None:
        self.said, self.generation, self.block_size = said, generation, block_size
        self.point_id, self.sequence = str(said["point_id"]), int(said["sequence"])
        if not self.point_id.isascii() or said["block_size_bytes"] != block_size:
            raise ValueError("a point's id is not ASCII, or its block size is not that of the slot")
        self.job, self.machine = str(said.get("job_name", "")), str(said.get("machine", ""))
        self.kind, self.created = str(said.get("kind", "")), str(said.get("created"))
        self.configuration, self.sealed = binary(said.get("configuration", ""), 0, 32), binary(said.get("sealed", ""))
        self.disks = []
        for number, disk in enumerate(said["disks"]):
            names, size_bytes = (str(disk["disk_id"]), str(disk["name"])), int(disk["size_bytes"])
            if not 0 <= size_bytes <= 1 << 62:
                raise ValueError(f"a disk of {size_bytes} bytes")
            root, mac = binary(disk["root"], 32), binary(disk.get("root_mac", ""), 0, 16)
            self.disks.append(Disk(number, *names, size_bytes, root, mac))

    def unseal(self) -> None:
        """Put the true names in the place of the neutral ones."""
        with at(f"point {self.point_id}: sealed names"):
            key = hkdf(self.generation.chain_key, b"vbrcore names")
            true = json.loads(decrypted(key, self.sealed, self.point_id.encode()))
            if any(true[name] != self.said.get(name, "") for name in ("plugin", "created", "configuration")):
                raise Damage("those of another point")
            self.job, self.machine = str(true["job_name"]), str(true["machine"])
            names = [{"disk_id": str(disk["disk_id"]), "name": str(disk["name"])} for disk in true["disks"]]
            self.disks = [disk._replace(**names[disk.number]) for disk in self.disks]


class BackupFile:
    """An open backup file (sections 2 to 4). Damage: it cannot be opened."""

    def __init__(self, path: Path, stack: contextlib.ExitStack) -> None:
        self.path = path
        with at(path):
            if not path.is_file():
                raise Damage("no such file")
            self._file = stack.enter_context(path.open("rb"))
        failures = []
        for slot in self._slots():
            self.slot = slot
            try:
                contents = self._checked(slot.offset, min(slot.length, 128 * MIB + 1), slot.sha256)
                break
            except Damage as damage:
                failures.append(f"{damage}: contents list {slot.sequence}")
        else:
            raise Damage("; ".join(failures) or f"{path}: offset 0: no valid slot: not a backup file, or damaged")
        for failure in failures:
            trouble(f"{failure}; an older one is used")
        with at(f"{path}: offset {self.slot.offset}: contents list"):
            self._take(contents)

    def read(self, offset: int, length: int) -> bytes:
        """Read exactly `length` bytes; no memory is taken for bytes that the file does not have."""
        with at(f"{self.path}: offset {offset}"):
            if length < 0 or offset + length > os.fstat(self._file.fileno()).st_size:
                raise Damage("the file ends before")
            self._file.seek(offset)
            return self._file.read(length)

    def _slots(self) -> list[Slot]:
        """Return the valid slots, the newest first."""
        valid, bad = [], []
        for offset in (0, 64 * 1024):
            try:
                data = self.read(offset, 4096)
            except Damage:
                data = b"?"
            if data[:8] == b"VBRCFILE" and hashlib.sha256(data[:4064]).digest() == data[4064:]:
                valid.append(Slot(*SLOT.unpack_from(data)))
            elif any(data):  # else it was never written
                bad.append(offset)
        if any(slot.version > 1 or slot.features & ~ENCRYPTED for slot in valid):
            raise Damage(f"{self.path}: offset 0: a later version of this program is needed")
        for offset in bad if valid else []:
            trouble(f"{self.path}: offset {offset}: this slot is not valid; the other one is used")
        return sorted(valid, key=lambda slot: slot.sequence, reverse=True)

    def _checked(self, offset: int, length: int, sha256: bytes) -> bytes:
        if offset < BODY_START or offset + length > self.slot.body_end:
            raise Damage(f"{self.path}: offset {offset}: length {length} is out of bounds")
        data = self.read(offset, length)
        if hashlib.sha256(data).digest() != sha256:
            raise Damage(f"{self.path}: offset {offset}: SHA-256 is wrong")
        return data

    def _take(self, contents: bytes) -> None:
        """Section 4. Malformed lists raise one of MALFORMED."""
        slot = self.slot
        magic, text_length, gone_length = struct.unpack_from("<8sII", contents.ljust(16))
        if magic != b"VBRCLIST" or 16 + text_length + gone_length > len(contents):
            raise ValueError("header")
        if slot.block_size not in {MIB // 4, MIB, 4 * MIB} or slot.alignment < 4096 or slot.alignment % 4096:
            raise ValueError("block size or alignment in the slot")
        said = json.loads(contents[16 : 16 + text_length])
        self.order = (int(said.get("generation_number", 0)), int(said["run_number"]), int(said["revision"]))
        self.points = list(said.get("points", []))
        self.generation_files = set(map(str, said.get("generation_files", [])))
        self.key_slots = list(map(dict, said.get("key_slots", [])[:16]))
        self._gone = contents[16 + text_length :][:gone_length]
        self._damaged = {(binary(bad["digest"], 32), int(bad["offset"])) for bad in said.get("damaged", [])}
        if self._damaged:
            trouble(f"{self.path}: {len(self._damaged)} of its extents are known to be damaged")
        self.parts: list[tuple[int, bytes]] = []  # how many rows are in earlier parts, and the sorted rows
        total = 0
        for table in said.get("tables", []):
            offset, count = int(table["offset"]) + 64, int(table["rows"])
            if count < 0 or (total + count) * 64 > slot.body_end:  # reading them takes no longer than reading the file
                raise ValueError("more rows than there is place for")
            try:
                self.parts.append((total, self._checked(offset, count * 64, binary(table["sha256"], 32))))
            except Damage as damage:
                trouble(f"{damage}: a table part; its rows count as absent")
            total += count
        if self._gone and len(self._gone) != -(-total // 8):
            raise ValueError("its bitmap is not as long as its tables")

    def find(self, digest: bytes) -> Iterator[Row]:
        """Give the rows of a digest that are neither gone nor damaged."""
        for earlier, rows in self.parts:
            low, high = 0, len(rows) // 64
            while low < high:
                middle = (low + high) // 2
                low, high = (middle + 1, high) if rows[middle * 64 : middle * 64 + 32] < digest else (low, middle)
            if rows[low * 64 : low * 64 + 32] == digest:
                row, number = Row(*ROW.unpack_from(rows, low * 64)), earlier + low
                gone = self._gone and self._gone[number // 8] >> number % 8 & 1
                if not gone and (digest, row.offset) not in self._damaged:
                    yield row

    def check(self, row: Row, length: int | None) -> None:
        """Damage: a row that no writer writes, not of `length` bytes, or of an extent that is not inside the file."""
        sane = row.codec in {0, 1} and not row.flags & ~ENCRYPTED and not row.offset % self.slot.alignment
        if not sane or not 0 < row.raw_length <= RAW_MAX or row.stored_length > STORED_MAX or row.offset < BODY_START:
            raise Damage("the row of this extent is wrong")
        if length is not None and row.raw_length != length:
            raise Damage(f"this extent is of {row.raw_length} bytes, not {length}")
        if row.offset + 64 + row.stored_length > min(self.slot.body_end, os.fstat(self._file.fileno()).st_size):
            raise Damage("the file ends before the end of this extent")

    def stored(self, row: Row) -> bytes:
        """Read the stored bytes of an extent and check all that needs no key."""
        data = self.read(row.offset, 64 + row.stored_length)
        xxh3 = getattr(optional("xxhash"), "xxh3_64_intdigest", None)
        magic, *said, check = EXTENT.unpack_from(data)
        expected = [row.stored_length, row.xxh3, row.digest, row.raw_length, row.kind, row.codec, row.flags]
        if magic != b"VBRX" or said != expected or (xxh3 and (xxh3(data[:56]), xxh3(data[64:])) != (check, row.xxh3)):
            raise Damage("this extent is damaged (its header, or the xxh3 of the stored bytes)")
        return data[64:]


class Generation:
    """The files of one generation, those with the newest lists first, and the content of their extents."""

    def __init__(self, chain_id: bytes, generation_id: bytes) -> None:
        self.chain_id, self.generation_id, self.encrypted = chain_id, generation_id, False
        self.chain_key: bytes | None = None
        self.files: list[BackupFile] = []
        self.others: list[Generation] = []  # of the same chain: their extents are as good
        self.deep = True  # else blocks and configurations are not read: it is enough that they have rows
        self.good: set[tuple[bytes, int | None]] = set()  # what was looked at before: digests with lengths

    def points(self) -> list[Point]:
        """Return the points of all files; copies in several files are equal."""
        points: dict[str, Point] = {}
        self.files.sort(key=lambda file: file.order, reverse=True)
        for file, said in [(one, said) for one in self.files for said in one.points]:
            try:
                with at(f"{file.path}: offset {file.slot.offset}: a point"):
                    point = points.setdefault(said["point_id"], Point(said, self, file.slot.block_size))
                if self.encrypted and self.chain_key is not None:
                    point.unseal()
            except Damage as damage:
                trouble(damage)
        for missing in self.files[0].generation_files - {file.slot.file_id.hex() for file in self.files}:
            trouble(f"generation {self.generation_id.hex()}: its file with the id {missing} is missing")
        return list(points.values())

    def content(self, digest: bytes, length: int | None, *, page: bool = False) -> bytes:
        """Return what a digest stands for, from the first extent that is right."""
        failures: list[str] = []
        for file, row in ((one, row) for of in (self, *self.others) for one in of.files for row in one.find(digest)):
            try:
                with at(f"{file.path}: offset {row.offset}"):
                    file.check(row, length)
                    data = self._content(file.stored(row), row, page=page) if self.deep or page else b""
            except Damage as damage:
                failures.append(str(damage))
                continue
            for failure in failures:
                trouble(f"{failure}; another copy is used")
            return data
        raise Damage("; ".join(failures[:3]) or f"digest {digest.hex()} stands in no file that is here")

    def _content(self, data: bytes, row: Row, *, page: bool) -> bytes:
        key = hkdf(self.chain_key, b"vbrcore digest") if row.flags & ENCRYPTED else None
        if bool(row.flags & ENCRYPTED) != (self.encrypted and not page):
            raise Damage("this extent is encrypted and must not be, or the other way round")
        if row.flags & ENCRYPTED:
            associated = row.digest + bytes([row.codec]) + self.chain_id
            data = decrypted(hkdf(self.chain_key, b"vbrcore extent", data[:16]), data[16:], associated)
        if row.codec:
            zstandard = needed("zstandard")
            try:  # the length that the frame says is looked at before memory is taken
                if zstandard.get_frame_parameters(data).content_size != row.raw_length:
                    raise Damage("the zstd frame is of another length than the row says")
                data = bytes(zstandard.ZstdDecompressor().decompress(data, max_output_size=row.raw_length))
            except zstandard.ZstdError as error:
                raise Damage(f"zstd: {error}") from None
        blake3 = optional("blake3")
        if len(data) != row.raw_length or (blake3 and blake3.blake3(data, key=key).digest() != row.digest):
            raise Damage("the content is damaged (its length or BLAKE3)")
        return data


def walk(point: Point, disk: Disk, fail: Callable[[object], None]) -> Iterator[tuple[int, bytes, int | None]]:
    """Give offset, digest and length of each block of a disk, in order (section 5). What is damaged goes to `fail`."""
    generation, blocks, height = point.generation, -(-disk.size_bytes // point.block_size), 1
    if generation.encrypted and generation.deep and optional("blake3"):
        said = generation.chain_id + point.point_id.encode() + struct.pack("<IQ", disk.number, disk.size_bytes)
        mac = optional("blake3").blake3(said + disk.root, key=hkdf(generation.chain_key, b"vbrcore root")).digest()
        if not hmac.compare_digest(mac[:16], disk.root_mac):
            fail("the root of its map was changed (root_mac)")
    while 256**height < blocks:
        height += 1
    pending = [(disk.root, height, 0)]
    while pending:
        digest, level, first = pending.pop()
        offset = first * point.block_size
        if digest == ZERO:
            continue
        if level == 0:
            yield offset, digest, min(point.block_size, disk.size_bytes - offset)
            continue
        try:
            page, span = generation.content(digest, 8192, page=True), 256 ** (level - 1)
            entries = min(256, -(-(blocks - first) // span))
            if any(page[entries * 32 :]):
                raise Damage(f"page {digest.hex()} names blocks behind the end of the disk")
        except Damage as damage:
            fail(f"byte {offset}: a page of the map: {damage}")
            continue
        pending += [(page[e * 32 : e * 32 + 32], level - 1, first + e * span) for e in reversed(range(entries))]


def survey(point: Point) -> dict[str, int]:
    """Look at all that a point reaches. Return how much of each thing is damaged or missing."""
    failures, generation = dict[str, int](), point.generation

    def fail(failure: object) -> None:
        failures[what] += 1
        if failures[what] <= 20:
            trouble(f"point {point.point_id}: {what}: {failure}")

    things = {f"disk {disk.number} {disk.name}": walk(point, disk, fail) for disk in point.disks}
    things["configuration"] = iter([(0, point.configuration, None)] if point.configuration else [])
    for what, reached in things.items():
        failures[what] = 0
        for offset, digest, length in reached:
            try:
                if (digest, length) not in generation.good:
                    generation.content(digest, length)
                    generation.good.add((digest, length))
            except Damage as damage:
                fail(f"byte {offset}: {damage}")
    return failures


def load(options: argparse.Namespace, stack: contextlib.ExitStack) -> list[Point]:
    """Open all files (section 1) and return their points in order, with the true names if there is a key."""
    generations: dict[tuple[bytes, bytes], Generation] = {}
    found = [file for path in options.files for file in (sorted(path.glob("*.vbf")) if path.is_dir() else [path])]
    for path in dict.fromkeys(path.resolve() for path in found):
        try:
            file = BackupFile(path, stack)
        except Damage as damage:
            trouble(damage)
            continue
        ids = (file.slot.chain_id, file.slot.generation_id)
        generation = generations.setdefault(ids, Generation(*ids))
        generation.files.append(file)
        generation.encrypted |= bool(file.slot.features & ENCRYPTED)
    if not generations:
        raise Damage(f"{options.files[0]}: no backup file that can be read")
    secrets, keys = dict(options.secrets or []), dict[bytes, bytes]()
    for generation in generations.values():
        chain = [other for other in generations.values() if other.chain_id == generation.chain_id]
        generation.encrypted = any(other.encrypted for other in chain)
        if secrets and generation.encrypted and generation.chain_id not in keys:
            slots = [slot for other in chain for file in other.files for slot in file.key_slots]
            keys[generation.chain_id] = unlock(generation.chain_id, slots, secrets)
        generation.chain_key = keys.get(generation.chain_id)
        generation.others = [other for other in chain if other is not generation]
    if secrets and not keys:
        raise Usage("a passphrase or key file was given, and nothing here is encrypted")
    ordered = sorted(generations.values(), key=lambda one: max(file.order for file in one.files))
    # Of copies in several generations the one of the highest generation counts.
    latest = {(point.generation.chain_id, point.point_id): point for one in ordered for point in one.points()}
    return sorted(latest.values(), key=lambda point: (point.generation.chain_id, point.sequence))


def choose(items: list[Any], wanted: str, *names: str) -> Any:
    """Return the only item one of whose `names` is the one that is wanted, or begins with it if it is a point's id."""
    for name in names:
        found = [item for item in items if str(getattr(item, name)) == wanted]
        found = found or [item for item in items if name == "point_id" and item.point_id.startswith(wanted)]
        if len(found) > 1:
            raise Usage(f"{name} {wanted}: {len(found)} are so")
        if found:
            return found[0]
    raise Damage(f"{names[0].replace('_id', '')} {wanted}: not in the files that are here")


def list_points(points: list[Point], options: argparse.Namespace) -> None:
    look = bool(troubles)  # a writer makes sure that points are whole: they are looked at only where something is amiss
    described: list[dict[str, Any]] = []
    for point in points:
        point.generation.deep = False
        whole = not (look and any(survey(point).values()))
        said = {name: getattr(point, name) for name in ("point_id", "job", "machine", "kind", "created")}
        with contextlib.suppress(ValueError, OverflowError, OSError):
            moment = datetime.fromtimestamp(float(point.created), timezone.utc)  # noqa: UP017 - Python 3.9
            said["created"] = moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        disks = [{name: getattr(disk, name) for name in Disk._fields[:4]} for disk in point.disks]
        described.append({**said, "encrypted": point.generation.encrypted, "whole": whole, "disks": disks})
        if not options.json:
            say("{machine}  point {point_id}  {created}  {kind}  ".format(**said) + ("whole" if whole else "NOT WHOLE"))
            for disk in disks:
                say("    disk {number}  {name}  {size_bytes} bytes  (id {disk_id})".format(**disk))
    if options.json:
        sys.stdout.write(json.dumps(described, indent=1) + "\n")


def verify(points: list[Point], options: argparse.Namespace) -> None:
    good = "verified" if optional("blake3") else "can be read, NOT VERIFIED"
    for point in [choose(points, options.point, "point_id")] if options.point else points:
        for what, failures in survey(point).items():
            say(f"point {point.point_id}  {what}: {f'DAMAGED in {failures} places' if failures else good}")
    if not optional("blake3") and not troubles:
        raise Usage("not verified: blake3 is not installed")


def extract(points: list[Point], options: argparse.Namespace) -> None:
    point = choose(points, options.point, "point_id")
    with at(f"point {point.point_id}"):
        disk = choose(point.disks, options.disk, "name", "disk_id", "number")
    if options.output == "-":
        write(point, disk, sys.stdout.buffer, sparse=False)
        return
    output = Path(options.output)
    try:
        descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o600)
    except OSError as error:
        raise Usage(f"{output}: {error.strerror}") from None
    try:
        with at(output), os.fdopen(descriptor, "wb") as file:
            file.truncate(disk.size_bytes)
            write(point, disk, file, sparse=True)
            os.fsync(descriptor)
            if os.name == "posix":
                directory = os.open(output.parent, os.O_RDONLY)
                os.fsync(directory)
                os.close(directory)
    except BaseException:
        output.unlink()
        raise
    say(f"{output}: {disk.size_bytes} bytes, {'verified' if optional('blake3') else 'NOT VERIFIED'}")


def write(point: Point, disk: Disk, file: BinaryIO, *, sparse: bool) -> None:
    def fail(failure: object) -> NoReturn:
        raise Damage(failure)

    position = 0
    with at(f"point {point.point_id}: disk {disk.name}"):
        for offset, digest, length in itertools.chain(walk(point, disk, fail), [(disk.size_bytes, ZERO, 0)]):
            with at(f"byte {offset}"):
                data = point.generation.content(digest, length) if length else b""
                while not sparse and position < offset:
                    position += file.write(bytes(min(MIB, offset - position)))
                if sparse:
                    file.seek(offset)
                position = offset + file.write(data)
        file.flush()


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise Usage(f"{message} (see --help)")


def secret_file(kdf: str, name: str) -> tuple[str, bytes]:
    try:
        data = Path(name).read_bytes()
    except OSError as error:
        raise Usage(f"{name}: {error.strerror}") from None
    newline = b"\r\n" if data.endswith(b"\r\n") else b"\n"
    return kdf, data.removesuffix(newline) if kdf == "argon2id" else data


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = Parser(prog="vbf_extract.py", description="Get disks out of vbrcore's backup files.")
    commands = parser.add_subparsers(required=True, metavar="list|extract|verify")
    for name, run in (("list", list_points), ("extract", extract), ("verify", verify)):
        command = commands.add_parser(name)
        command.set_defaults(run=run)
        command.add_argument("files", nargs="+", type=Path, metavar="FILE", help="backup files, or directories")
        for option, kdf in (("--passphrase-file", "argon2id"), ("--key-file", "keyfile")):
            read = functools.partial(secret_file, kdf)
            command.add_argument(option, dest="secrets", action="append", type=read, metavar="FILE")
        if name == "list":
            command.add_argument("--json", action="store_true", help="print an array of points")
        else:
            command.add_argument("--point", required=name == "extract", help="an id or its beginning; see list")
        if name == "extract":
            command.add_argument("--disk", required=True, help="name, disk id or number; see list")
            command.add_argument("--output", required=True, metavar="FILE", help="a new file, or - for standard output")
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> int:
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # an output file is removed then, too
    try:
        with contextlib.ExitStack() as stack:
            options = parse(arguments)
            points = load(options, stack)
            for name, what in (("xxhash", "stored checksums"), ("blake3", "NOT VERIFIED: digests of the content")):
                if optional(name) is None and options.run is not list_points:
                    note(f"{what} are not checked: {name} is not installed")
            options.run(points, options)
    except (Damage, Usage, OSError) as failure:
        note(failure)
        return 2 if isinstance(failure, Usage) else 1
    except KeyboardInterrupt:
        note("interrupted")
        return 130
    return 1 if troubles and options.run is not extract else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
