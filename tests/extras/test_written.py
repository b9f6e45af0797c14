"""Chains written by hand from docs/FORMAT.md: encrypted ones, and such as no writer would write."""

import base64
import functools
import hashlib
import hmac
import importlib.util
import json
import os
import resource
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import xxhash
import zstandard
from blake3 import blake3
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

EXTRACTOR = Path(__file__).resolve().parents[2] / "extras" / "vbf_extract.py"
MIB = 1024 * 1024
BLOCK = 262144
GIB = 1024 * MIB
POINT = "6f1c1b9e-0000-4000-8000-000000000001"
CHAIN_ID, GENERATION_ID, CHAIN_KEY = bytes(range(16)), b"generation-id-16", bytes(range(100, 132))
Json = dict[str, Any]


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def subkey(info: bytes, salt: bytes = bytes(32), key: bytes = CHAIN_KEY) -> bytes:
    """RFC 5869 with SHA-256, for 32 bytes."""
    return hmac.digest(hmac.digest(salt, key, "sha256"), info + b"\x01", "sha256")


@dataclass
class File:
    """A backup file in the making (sections 2 to 4, 7)."""

    file_id: bytes = b"file-id-of-16-by"
    encrypted: bool = False
    body: bytearray = field(default_factory=bytearray)
    rows: list[bytes] = field(default_factory=list)
    slot: Json = field(default_factory=dict)
    record: Json = field(default_factory=dict)
    gone: bytes = b""
    nonce: int = 0

    def place(self, data: bytes) -> int:
        """Append an item of the body at a multiple of 4096; return its offset."""
        self.body += bytes(-len(self.body) % 4096)
        self.body += data
        return 128 * 1024 + len(self.body) - len(data)

    def add(self, content: bytes, kind: int = 0, codec: int = 1, **changed: Any) -> bytes:
        """Write an extent and its row; return its digest. `changed` fields are not as they must be."""
        sealed = self.encrypted and kind != 1 and not changed.get("open")
        hasher = blake3(content, key=subkey(b"vbrcore digest")) if sealed else blake3(content)
        digest = changed.get("digest") or hasher.digest()
        stored = changed.get("stored") or (zstandard.compress(content) if codec else content)
        if sealed:
            salt, nonce = b"salt of one task", self.nonce.to_bytes(12, "little")
            self.nonce += 1
            cipher = AESGCM(subkey(b"vbrcore extent", salt))
            stored = salt + nonce + cipher.encrypt(nonce, stored, digest + bytes([codec]) + CHAIN_ID)
        if changed.get("tamper"):
            stored = stored[:40] + bytes([stored[40] ^ 1]) + stored[41:]
        checksum, raw = xxhash.xxh3_64_intdigest(stored), changed.get("raw", len(content))
        length = changed.get("length", len(stored))
        header = struct.pack("<4sIQ32sIBBH", b"VBRX", length, checksum, digest, raw, kind, codec, sealed)
        offset = self.place(header + struct.pack("<Q", xxhash.xxh3_64_intdigest(header)) + stored)
        offset = changed.get("offset", offset)
        self.rows.append(struct.pack("<32sQIIQBBHI", digest, offset, length, raw, checksum, kind, codec, sealed, 0))
        return bytes(digest)

    def page(self, digests: dict[int, bytes]) -> bytes:
        return self.add(b"".join(digests.get(entry, bytes(32)) for entry in range(256)), kind=1)

    def contents(self, points: list[Json]) -> bytes:
        rows = b"".join(sorted(self.rows))
        tables = []
        if rows:
            offset = self.place(struct.pack("<4sIQ48x", b"VBRT", 64, len(rows) // 64) + rows)
            tables = [{"offset": offset, "rows": len(rows) // 64, "sha256": b64(hashlib.sha256(rows).digest())}]
        record = {"run_number": 1, "revision": 1, "generation_files": [self.file_id.hex()], "tables": tables}
        text = json.dumps({**record, "points": points, **self.record}).encode()
        return struct.pack("<8sII", b"VBRCLIST", len(text), len(self.gone)) + text + self.gone

    def packed_slot(self, contents: bytes, sequence: int, **changed: Any) -> bytes:
        offset = self.place(contents)
        values = {
            "version": 1,
            "features": int(self.encrypted),
            "sequence": sequence,
            "flags": 0,
            "block_size": BLOCK,
            "file_id": self.file_id,
            "chain_id": CHAIN_ID,
            "generation_id": GENERATION_ID,
            "end": 128 * 1024 + len(self.body),
            "offset": offset,
            "length": len(contents),
            "sha256": hashlib.sha256(contents).digest(),
            "run_number": 1,
            "alignment": 4096,
            **self.slot,
            **changed,
        }
        data = struct.pack("<8sIIQII16s16s16sQQQ32sQI", b"VBRCFILE", *values.values()).ljust(4064, b"\0")
        return data + hashlib.sha256(data).digest()

    def write(self, path: Path, points: list[Json], *older: bytes) -> Path:
        """Write slot A, and slot B if there is an `older` one."""
        slot = self.packed_slot(self.contents(points), sequence=9)
        path.write_bytes(
            slot.ljust(64 * 1024, b"\0") + (older[0] if older else b"").ljust(64 * 1024, b"\0") + self.body
        )
        return path


def disk(root: bytes, size_bytes: int, **changed: Any) -> Json:
    return {"disk_id": "id-1", "name": "vda", "size_bytes": size_bytes, "root": b64(root), "change_id": "", **changed}


def point(*disks: Json, **changed: Any) -> Json:
    names = {"job_name": "nightly", "machine_id": "m-1", "machine": "web", "plugin": "images"}
    times = {"kind": "full", "created": 1.5, "sequence": 1, "block_size_bytes": BLOCK, "configuration": ""}
    return {"point_id": POINT, **names, **times, "disks": list(disks), "warnings": [], **changed}


def limited() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (GIB, GIB))


def run(*arguments: str | Path, exit_code: int = 0, limit: Callable[[], None] = limited) -> tuple[str, str]:
    """Run the program, which may have 1 GiB of address space; return what it says on both its outputs."""
    command = [sys.executable, str(EXTRACTOR), *map(str, arguments)]
    done = subprocess.run(
        command,
        check=False,
        capture_output=True,
        timeout=60,
        preexec_fn=limit,
    )
    assert done.returncode == exit_code, done
    said = done.stderr.decode()
    assert all(line.startswith("vbf_extract: ") for line in said.splitlines()), said
    return done.stdout.decode(), said


def extract(path: Path, *options: str | Path, exit_code: int = 0, others: tuple[Path, ...] = ()) -> tuple[bytes, str]:
    """Extract the first disk of the point; return its content and what was said."""
    output = path.parent / "out.raw"
    what = ("--point", POINT, "--disk", "0", "--output", output)
    _, said = run("extract", path, *others, *what, *options, exit_code=exit_code)
    content = output.read_bytes() if exit_code == 0 else b""
    assert output.exists() == (exit_code == 0)
    output.unlink(missing_ok=True)
    return content, said


ONE, TWO = os.urandom(BLOCK), b"two" * 30_000


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "chain.vbf"


# Maps, rows and lists


def test_a_map_of_two_levels_with_holes_and_a_short_last_block(path: Path) -> None:
    file = File()
    first = file.page({1: file.add(ONE, codec=0), 255: file.add(TWO.ljust(BLOCK, b"!"))})
    last = file.page({44: file.add(TWO)})
    root = file.page({0: first, 2: last})  # entry 1: a hole of 64 MiB
    size_bytes = (512 + 44) * BLOCK + len(TWO)
    file.write(path, [point(disk(root, size_bytes))])
    expected = bytearray(size_bytes)
    expected[BLOCK : 2 * BLOCK] = ONE
    expected[255 * BLOCK : 256 * BLOCK] = TWO.ljust(BLOCK, b"!")
    expected[-len(TWO) :] = TWO
    assert extract(path) == (bytes(expected), "")
    done = run("extract", path, "--point", POINT, "--disk", "vda", "--output", "/dev/null", exit_code=2)
    assert "/dev/null" in done[1]
    command = [
        sys.executable,
        str(EXTRACTOR),
        "extract",
        str(path),
        "--point",
        POINT[:3],
        "--disk",
        "id-1",
        "--output",
        "-",
    ]
    assert subprocess.run(command, check=True, capture_output=True).stdout == expected


def test_disks_without_data(path: Path) -> None:
    File().write(path, [point(disk(bytes(32), 1), disk(bytes(32), 0), disk(bytes(32), 2**62))])
    assert extract(path) == (b"\0", "")
    assert "4611686018427387904 bytes" in run("list", path)[0]
    assert run("verify", path)[0].count(": verified") == 4


def test_rows_that_are_gone_or_damaged_are_absent(path: Path) -> None:
    for how in ("gone", "damaged"):
        file = File()
        digest = file.add(ONE)
        root = file.page({0: digest})
        number = [row[:32] for row in sorted(file.rows)].index(digest)
        if how == "gone":
            file.gone = bytes([1 << number])
        else:
            file.record["damaged"] = [{"digest": b64(digest), "offset": 128 * 1024}]
        file.write(path, [point(disk(root, BLOCK))])
        assert digest.hex() in extract(path, exit_code=1)[1]
        assert "DAMAGED" in run("verify", path, exit_code=1)[0]
    assert '"whole": false' in run("list", path, "--json", exit_code=1)[0]


def test_another_row_of_the_same_digest_takes_the_place_of_a_damaged_one(path: Path) -> None:
    bad, good = File(), File(file_id=b"the other file's")
    digest = bad.add(ONE, tamper=True)
    root = bad.page({0: digest})
    good.add(ONE)
    bad.record["revision"] = 2
    bad.record["generation_files"] = [bad.file_id.hex(), good.file_id.hex()]
    bad.write(path, [point(disk(root, BLOCK))])
    assert "offset 131072" in extract(path, exit_code=1)[1]
    other = good.write(path.with_name("other.vbf"), [point(disk(root, BLOCK))])
    content, said = extract(path, others=(other,))
    assert content == ONE
    assert "another copy is used" in said


def test_of_two_slots_the_newer_is_taken_whose_list_is_right(path: Path) -> None:
    file = File()
    root = file.page({0: file.add(ONE)})
    older = file.packed_slot(file.contents([point(disk(root, BLOCK), machine="older")]), sequence=8)
    file.write(path, [point(disk(root, BLOCK), machine="newer")], older)
    assert "newer" in run("list", path)[0]
    data = path.read_bytes()
    path.write_bytes(data[:-5] + b"x" + data[-4:])  # in the newer list, which is the last thing in the file
    text, said = run("list", path, exit_code=1)
    assert "older" in text
    assert "whole" in text
    assert "slot 9" in said or "list 9" in said
    assert extract(path)[0] == ONE
    path.write_bytes(data[:-5])
    assert "older" in run("list", path, exit_code=1)[0]


@pytest.mark.parametrize("changed", [{"version": 2}, {"features": 2}])
def test_a_file_of_a_later_version_is_refused_though_its_other_slot_is_known(path: Path, changed: Json) -> None:
    file = File()
    older = file.packed_slot(file.contents([]), sequence=8, **changed)
    file.write(path, [point(disk(bytes(32), 1))], older)
    assert "a later version" in run("list", path, exit_code=1)[1]


# Encrypted chains


def key_slot(kdf: str, secret: bytes, **changed: Any) -> Json:
    salt, nonce, cost = b"salt of key slot", b"nonce of 12b", {"memory_kib": 64, "passes": 2, "lanes": 2}
    if kdf == "keyfile":
        key, cost = subkey(b"vbrcore keyfile", salt, secret), {"memory_kib": 0, "passes": 0, "lanes": 0}
    else:
        key = Argon2id(salt=salt, length=32, iterations=2, lanes=2, memory_cost=64).derive(secret)
    wrapped = AESGCM(key).encrypt(nonce, CHAIN_KEY, CHAIN_ID)
    values = {"salt": b64(salt), "nonce": b64(nonce), "wrapped": b64(wrapped)}
    return {"slot_id": kdf, "kdf": kdf, **values, **cost, **changed}


def sealed(neutral: Json, names: Json) -> Json:
    same = {name: neutral[name] for name in ("plugin", "created", "configuration")}
    nonce = b"random nonce"
    text = json.dumps({**same, **names}).encode()
    cipher = AESGCM(subkey(b"vbrcore names")).encrypt(nonce, text, POINT.encode())
    return {**neutral, "sealed": b64(nonce + cipher)}


def root_mac(root: bytes, size_bytes: int, number: int = 0) -> str:
    said = CHAIN_ID + POINT.encode() + struct.pack("<IQ", number, size_bytes) + root
    return b64(blake3(said, key=subkey(b"vbrcore root")).digest()[:16])


def encrypted_point(root: bytes, size_bytes: int, changed: Json | None = None) -> Json:
    neutral = {
        **disk(root, size_bytes, disk_id="4711", name=""),
        "root_mac": root_mac(root, size_bytes),
        **(changed or {}),
    }
    names = {"job_name": "secret job", "machine_id": "m-1", "machine": "secret machine", "warnings": ["secret"]}
    disks = [{"disk_id": "id-1", "name": "secret disk", "change_id": "c"}]
    return sealed(point(neutral, job_name="", machine="", machine_id="00ff"), {**names, "disks": disks})


@pytest.fixture
def passphrase(tmp_path: Path) -> Path:
    file = tmp_path / "passphrase"
    file.write_bytes("schön geheim \n".encode())
    return file


def encrypted_file(path: Path, *extents: Json, **changed: Any) -> Path:
    """Write a disk of two blocks, both slots of its key among others."""
    file = File(encrypted=True)
    digests = [file.add(content, **(extents[number] if extents else {})) for number, content in enumerate((ONE, TWO))]
    root = file.page(dict(enumerate(digests)))
    file.record["key_slots"] = [
        key_slot("argon2id", b"another"),
        {"kdf": "unknown", "salt": 5},
        key_slot("argon2id", "schön geheim ".encode()),
        key_slot("keyfile", b"k" * 64),
    ]
    file.record.update(changed.pop("record", {}))
    return file.write(path, [encrypted_point(root, BLOCK + len(TWO), changed)])


def test_an_encrypted_chain_opens_with_its_passphrase_or_key_file(path: Path, passphrase: Path) -> None:
    encrypted_file(path)
    key_file = path.with_name("key")
    key_file.write_bytes(b"k" * 64)
    for option in (("--passphrase-file", passphrase), ("--key-file", key_file)):
        assert extract(path, *option) == (ONE + TWO, "")
        text, _ = run("list", path, *option)
        assert "secret machine" in text
        assert "secret disk" in text
        assert run("verify", path, *option)[0].count(": verified") == 2
    passphrase.write_bytes("schön geheim \r\n".encode())
    assert extract(path, "--passphrase-file", passphrase)[0] == ONE + TWO


def test_without_the_key_points_are_listed_and_no_more(path: Path, passphrase: Path) -> None:
    encrypted_file(path)
    listed = json.loads(run("list", path, "--json")[0])
    assert [(said["point_id"], said["machine"], said["encrypted"]) for said in listed] == [(POINT, "", True)]
    assert listed[0]["disks"] == [{"number": 0, "disk_id": "4711", "name": "", "size_bytes": BLOCK + len(TWO)}]
    assert "--passphrase-file" in extract(path, exit_code=2)[1]
    assert "--passphrase-file" in run("verify", path, exit_code=2)[1]
    passphrase.write_bytes(b"wrong")
    assert "does not open it" in extract(path, "--passphrase-file", passphrase, exit_code=2)[1]
    passphrase.write_bytes(b"schon geheim")
    extract(path, "--passphrase-file", passphrase, exit_code=2)


@pytest.mark.parametrize(
    ("extents", "changed", "said"),
    [
        ([{"tamper": True}, {}], {}, "offset 131072: changed, or encrypted with another key"),
        ([{"open": True}, {}], {}, "must not be, or the other way round"),
        ([], {"root_mac": b64(bytes(16))}, "root_mac"),
        ([], {"root_mac": ""}, "root_mac"),
        ([], {"size_bytes": BLOCK + len(TWO) - 1}, "root_mac"),
    ],
)
def test_what_was_changed_without_the_key_is_refused(
    path: Path, passphrase: Path, extents: list[Json], changed: Json, said: str
) -> None:
    encrypted_file(path, *extents, **changed)
    assert said in extract(path, "--passphrase-file", passphrase, exit_code=1)[1]
    assert said in run("verify", path, "--passphrase-file", passphrase, exit_code=1)[1]


def test_names_of_another_point_are_not_taken(path: Path, passphrase: Path) -> None:
    file = File(encrypted=True, record={"key_slots": [key_slot("argon2id", "schön geheim ".encode())]})
    for changed in ({"created": 2.5}, {"point_id": POINT[:-1] + "2"}):
        file.write(path, [{**encrypted_point(bytes(32), 5), **changed}])
        text, said = run("list", path, "--passphrase-file", passphrase, exit_code=1)
        assert "secret" not in text
        assert "sealed names" in said


@pytest.mark.parametrize("cost", [{"memory_kib": 2**21}, {"passes": 2**40}, {"lanes": 17}, {"memory_kib": -1}])
def test_a_key_slot_that_costs_too_much_is_passed_over(path: Path, passphrase: Path, cost: Json) -> None:
    right = "schön geheim ".encode()
    encrypted_file(path, record={"key_slots": [key_slot("argon2id", right, **cost)]})
    extract(path, "--passphrase-file", passphrase, exit_code=2)
    encrypted_file(path, record={"key_slots": [key_slot("argon2id", right, **cost), key_slot("argon2id", right)]})
    assert extract(path, "--passphrase-file", passphrase)[0] == ONE + TWO


# Hostile files


@pytest.mark.parametrize(
    "changed",
    [
        {"length": 2**32 - 1},
        {"raw": 2**32 - 1},
        {"raw": 64 * MIB},
        {"raw": 0},
        {"offset": 2**64 - 1},
        {"offset": 2**64 - 4096},
        {"offset": 0},
        {"stored": zstandard.compress(bytes(900 * MIB))},
        {"stored": zstandard.ZstdCompressor(write_content_size=False).compress(bytes(900 * MIB))},
        {"stored": zstandard.compress(ONE)[:-9]},
        {"stored": b"no zstd"},
        {"digest": b"d" * 32},
        {"codec": 2},
    ],
    ids=lambda changed: "-".join(f"{name}" for name in changed),
)
def test_an_extent_that_lies_takes_no_memory_and_gives_nothing(path: Path, changed: Json) -> None:
    file = File()
    codec = changed.pop("codec", 1) if "codec" in changed else 1
    root = file.page({0: file.add(ONE, codec=codec, **changed)})
    file.write(path, [point(disk(root, BLOCK))])
    assert f"{path}: offset " in extract(path, exit_code=1)[1]
    run("verify", path, exit_code=1)
    run("list", path)


@pytest.mark.parametrize(
    "changed",
    [
        {"length": 2**63},
        {"length": 200 * MIB, "end": 2**40},
        {"length": 3},
        {"offset": 2**64 - 1},
        {"offset": 0},
        {"end": 0},
        {"end": 2**64 - 1, "length": 2**62},
        {"block_size": 3},
        {"alignment": 0},
        {"sha256": bytes(32)},
    ],
    ids=str,
)
def test_a_slot_that_lies_takes_no_memory_and_gives_nothing(path: Path, changed: Json) -> None:
    File(slot=changed).write(path, [point(disk(bytes(32), 1))])
    os.truncate(path, 2**42)  # sparse: all that it says is "inside the file"
    assert str(path) in run("list", path, exit_code=1)[1]


@pytest.mark.parametrize("rows", [2**40, 2**58, -1])
def test_a_table_that_lies_takes_no_memory(path: Path, rows: int) -> None:
    tables = [{"offset": 128 * 1024, "rows": rows, "sha256": b64(bytes(32))}]
    File(record={"tables": tables}, slot={"end": 2**42}).write(path, [point(disk(bytes(32), 1))])
    os.truncate(path, 2**42)
    assert str(path) in run("list", path, exit_code=1)[1]


def test_a_page_that_names_blocks_behind_the_end_is_damaged(path: Path) -> None:
    file = File()
    digest = file.add(ONE)
    root = file.page({0: digest, 1: digest})
    file.write(path, [point(disk(root, BLOCK))])
    assert "behind the end" in extract(path, exit_code=1)[1]


def test_names_do_not_steer_the_terminal(path: Path) -> None:
    evil = "\x1b[2J\r\nroot\u202e\ud800"
    File().write(path, [point(disk(bytes(32), 1, name=evil), machine=evil)])
    text, _ = run("list", path)
    assert len(text.splitlines()) == 2
    assert text.replace("\n", "").isprintable()
    assert json.loads(run("list", path, "--json")[0])[0]["machine"] == evil
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    File().write(path, [point(machine="schön")])
    command = [sys.executable, str(EXTRACTOR), "list", str(path)]
    assert subprocess.run(command, check=True, capture_output=True, env=environment).stdout.startswith(b"sch?n ")


VALUES: tuple[Any, ...] = (
    None,
    -1,
    2**70,
    1e400,
    True,
    "x",
    "\u00e4",
    [],
    {},
    [None],
    [[]],
    [{}],
    [5],
    {"kdf": "argon2id"},
)


@pytest.fixture(scope="module")
def main() -> Iterator[Callable[[list[str]], int]]:
    """Give the program's `main`, to call it often."""
    spec = importlib.util.spec_from_file_location("vbf_extract", EXTRACTOR)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    before = signal.getsignal(signal.SIGTERM)
    spec.loader.exec_module(module)

    def call(arguments: list[str]) -> int:
        module.troubles.clear()
        code: int = module.main(arguments)
        return code

    yield call
    signal.signal(signal.SIGTERM, before)


def test_fields_of_any_type_are_refused_or_passed_over(path: Path, passphrase: Path, main: Any, capsys: Any) -> None:
    digest = b64(bytes(32))
    lists = {
        "": {"run_number", "revision", "generation_files", "tables", "points", "damaged", "key_slots", "unknown"},
        "points": set(point()) | {"sealed"},
        "disks": set(disk(bytes(32), 1)) | {"root_mac"},
        "tables": {"offset", "rows", "sha256"},
        "damaged": {"digest", "offset"},
        "key_slots": set(key_slot("keyfile", b"k")),
    }
    calls = 0
    for where, names in lists.items():
        for name in sorted(names):
            for value in VALUES:
                file = File(encrypted=where == "key_slots")
                item = {name: value}
                record: Json = {"points": [point(disk(bytes(32), 1))], "damaged": [{"digest": digest, "offset": 1}]}
                if where == "":
                    record |= item
                elif where == "points":
                    record["points"] = [point(disk(bytes(32), 1), **item)]
                elif where == "disks":
                    record["points"] = [point({**disk(bytes(32), 1), **item})]
                elif where == "tables":
                    record["tables"] = [{"offset": 128 * 1024, "rows": 0, "sha256": digest, **item}]
                elif where == "damaged":
                    record["damaged"] = [{"digest": digest, "offset": 1, **item}]
                else:
                    record["key_slots"] = [{**key_slot("keyfile", b"k"), **item}]
                file.record = record
                file.write(path, [])
                options = ["--key-file", str(passphrase)] if file.encrypted else []
                assert main(["verify", str(path), *options]) in {0, 1, 2}, item
                said = capsys.readouterr().err
                assert all(text.startswith("vbf_extract: ") for text in said.splitlines())
                assert main(["list", str(path), "--json"]) in {0, 1, 2}, item
                json.loads(capsys.readouterr().out or "[]")
                calls += 1
    assert calls > 500


@pytest.mark.parametrize("text", [b"", b"[]", b"{", b"[" * 100_000, b'{"a":' * 100_000, b"\xff", b"9" * 5000])
def test_a_list_that_is_no_object_is_damaged(path: Path, text: bytes) -> None:
    file = File()
    slot = file.packed_slot(struct.pack("<8sII", b"VBRCLIST", len(text), 0) + text, sequence=1)
    path.write_bytes(slot.ljust(128 * 1024, b"\0") + file.body)
    assert f"{path}: offset 131072" in run("list", path, exit_code=1)[1]


# Outputs


def test_an_output_that_cannot_be_written_is_removed(path: Path) -> None:
    file = File()
    root = file.page({0: file.add(ONE)})
    file.write(path, [point(disk(root, BLOCK))])
    small = functools.partial(resource.setrlimit, resource.RLIMIT_FSIZE, (BLOCK // 2, BLOCK // 2))
    output = path.with_name("out.raw")
    options = ("--point", POINT, "--disk", "vda", "--output", output)
    assert f"{output}: File too large" in run("extract", path, *options, exit_code=1, limit=small)[1]
    assert not output.exists()


def test_an_output_is_removed_when_the_program_is_stopped(path: Path) -> None:
    file = File()
    digest = file.add(ONE)
    for _ in range(3):  # the same block everywhere: 4 TiB that nobody waits for
        digest = file.page(dict.fromkeys(range(256), digest))
    file.write(path, [point(disk(digest, 256**3 * BLOCK))])
    output = path.with_name("out.raw")
    options = ["--point", POINT, "--disk", "0", "--output", str(output)]
    command = [sys.executable, str(EXTRACTOR), "extract", str(path), *options]
    with subprocess.Popen(command, stderr=subprocess.PIPE) as program:
        while program.poll() is None and not (output.exists() and output.stat().st_blocks):
            time.sleep(0.01)
        program.terminate()
        _, said = program.communicate(timeout=30)
    assert (program.returncode, said) == (130, b"vbf_extract: interrupted\n")
    assert not output.exists()
