"""Encrypted repositories: what can be read in them without the key, with it, and with another one."""

import base64
import hashlib
import json
import os
import subprocess
import sys
import typing
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.conftest import CHECKOUT
from vbrcore.backupfile.codec import checksum
from vbrcore.backupfile.file import open_file
from vbrcore.backupfile.rows import pack_header, pack_row, unpack_row
from vbrcore.backupfile.tables import read_rows
from vbrcore.catalog.catalog import Catalog
from vbrcore.mover import messages
from vbrcore.secrets.repositorykey import RepositoryKey
from vbrcore.secrets.secret import Secret
from vbrcore.storage.local import LocalStorage

MIB = 1024 * 1024
MACHINE = "machine-of-markers"
DISK = "disk-of-markers.raw"
JOB = "job-of-markers"
GUEST = b"a line that only the guest wrote"
# No name in this chain, nothing of the guest's data, in no encoding of text that the format uses.
MARKERS = (MACHINE.encode(), b"disk-of-markers", JOB.encode(), GUEST)


@pytest.fixture
def passphrase(tmp_path: Path) -> Path:
    path = tmp_path / "passphrase"
    path.write_text("correct horse, battery staple\n")
    return path


@pytest.fixture
def disk(line: Any) -> Path:
    """Half of it compresses, half does not; both with the guest's line in them."""
    path: Path = line.lab / MACHINE / DISK
    path.parent.mkdir()
    path.write_bytes(GUEST * 40_000 + os.urandom(MIB) + GUEST + os.urandom(2 * MIB) + bytes(4 * MIB))
    return path


@pytest.fixture
def encrypted(line: Any, passphrase: Path) -> Any:
    line("hypervisor", "add", "lab", "--plugin", "images", "--set", f"path={line.lab}")
    options = ("--reserve", "1M", "--encrypt", "--passphrase-file", passphrase)
    line("repository", "add", "main", "--path", line.repository, *options)
    line.add_job(JOB)
    return line


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def change(disk: Path) -> None:
    with disk.open("r+b") as file:
        file.seek(MIB + 1000)
        file.write(GUEST)


def files_of(line: Any) -> dict[str, str]:
    """Return the digest of each backup file."""
    return {str(path): sha256(path) for path in sorted(line.repository.rglob("*.vbf"))}


def set_key(line: Any, text: str) -> None:
    """Put another passphrase into the catalog, as if it had been lost and made anew."""
    catalog = Catalog.open(line.home)
    try:
        repository_id = catalog.repository_by_name("main").repository_id
        if text:
            catalog.set_repository_key(repository_id, RepositoryKey(Secret(text)))
        else:
            catalog.forget_repository_key(repository_id)
    finally:
        catalog.close()


def forge(path: Path) -> int:
    """Change one bit of each block's ciphertext, with all checksums made right; return how many there were."""
    storage = LocalStorage(path.parent)
    file = open_file(storage, path.name)
    reader = storage.open_reader(path.name)
    forged = 0
    for part in file.contents.tables:
        rows = list(read_rows(reader, part))
        data = path.read_bytes()
        changed = bytearray(data)
        for number, packed in enumerate(rows):
            row, offset = unpack_row(packed)
            if not row.encrypted or row.kind:
                continue
            stored = bytearray(data[offset + 64 : offset + 64 + row.stored_length])
            stored[len(stored) // 2] ^= 1
            row = msgspec.structs.replace(row, checksum=checksum(stored))
            rows[number] = pack_row(row, offset)
            changed[offset : offset + 64 + len(stored)] = pack_header(row) + stored
            forged += 1
        table = b"".join(rows)
        start = part.offset + 64
        changed[start : start + len(table)] = table
        path.write_bytes(_with_table(changed, file, part.sha256, hashlib.sha256(table).digest()))
    reader.close()
    return forged


def _with_table(data: bytearray, file: Any, old: bytes, new: bytes) -> bytes:
    """Name the table's new SHA-256 in the contents list, and that list's in both slots."""
    slot = file.slot
    place = slice(slot.contents_offset, slot.contents_offset + slot.contents_length)
    listed = bytes(data[place]).replace(base64.b64encode(old), base64.b64encode(new))
    named = bytes(data).replace(bytes(data[place]), listed)
    changed = bytearray(named.replace(slot.contents_sha256, hashlib.sha256(listed).digest()))
    for offset in (0, 64 * 1024):
        changed[offset + 4064 : offset + 4096] = hashlib.sha256(changed[offset : offset + 4064]).digest()
    return bytes(changed)


def test_full_and_increment_restore_and_no_name_or_content_is_legible(
    encrypted: Any, disk: Path, passphrase: Path
) -> None:
    line = encrypted
    hashes = [sha256(disk)]
    assert line.run_job(JOB)["result"] == "success"
    change(disk)
    hashes.append(sha256(disk))
    increment = line.run_job(JOB)
    assert increment["result"] == "success"
    assert int(increment["transferred_bytes"]) < 2 * MIB  # deduplicated by keyed digests
    points = line.points(JOB)
    assert [(point["kind"], point["machine"], point["job"]) for point in points] == [
        ("full", MACHINE, JOB),
        ("increment", MACHINE, JOB),
    ]
    for point, expected in zip(points, hashes, strict=True):
        assert sha256(line.restore(point["point_id"], DISK)) == expected
        line("verify", point["point_id"], "--deep")
    machine = ("--hypervisor", "lab", "--name", "again")
    line("restore", "machine", points[0]["point_id"], *machine)
    assert sha256(line.lab / "again" / DISK) == hashes[0]
    assert line.json("repository", "show", "main")["encrypted"] is True
    names = " ".join(str(path.relative_to(line.repository)) for path in line.repository.rglob("*"))
    files = b"".join(path.read_bytes() for path in line.repository.rglob("*") if path.is_file())
    for marker in MARKERS:
        assert marker not in files
        assert marker.decode() not in names
    assert passphrase.read_bytes().strip() not in files + (line.home / "catalog.db").read_bytes()
    extractor = CHECKOUT / "extras" / "vbf_extract.py"
    if extractor.exists():
        for point, expected in zip(points, hashes, strict=True):
            output = line.out / f"extracted-{point['point_id']}"
            chain = [str(path) for path in line.repository.rglob("*.vbf")]
            options = ["--point", point["point_id"], "--disk", DISK, "--output", str(output)]
            command = [
                sys.executable,
                str(extractor),
                "extract",
                *chain,
                *options,
                "--passphrase-file",
                str(passphrase),
            ]
            subprocess.run(command, check=True, capture_output=True, timeout=60)
            assert sha256(output) == expected


def test_a_repository_opens_with_a_key_file(line: Any, disk: Path, tmp_path: Path) -> None:
    key_file = tmp_path / "key"
    key_file.write_bytes(os.urandom(64))
    line("hypervisor", "add", "lab", "--plugin", "images", "--set", f"path={line.lab}")
    line("repository", "add", "main", "--path", line.repository, "--reserve", "1M", "--encrypt", "--key-file", key_file)
    line.add_job(JOB)
    line.run_job(JOB)
    assert sha256(line.restore(line.points(JOB)[0]["point_id"], DISK)) == sha256(disk)


def test_another_passphrase_or_none_changes_nothing(encrypted: Any, disk: Path) -> None:
    line = encrypted
    line.run_job(JOB)
    point = line.points(JOB)[0]["point_id"]
    before = files_of(line)
    change(disk)
    restore = ("restore", "disk", point, DISK, "--output")
    set_key(line, "something else")
    assert "none of the 1 key slots" in line.refused("session_failed", "job", "run", JOB)["message"]
    line.refused("wrong_passphrase", *restore, line.out / "wrong.raw")
    line.refused("wrong_passphrase", "verify", point, "--deep")
    line("verify", point)  # checksums need no key
    set_key(line, "")
    line.refused("key_needed", *restore, line.out / "none.raw")
    line("verify", point)
    assert files_of(line) == before
    assert not list(line.out.iterdir())
    set_key(line, "correct horse, battery staple")
    line.run_job(JOB)
    assert len(line.points(JOB)) == 2


def test_a_changed_passphrase_opens_what_was_there_and_the_old_one_does_not(
    encrypted: Any, disk: Path, tmp_path: Path
) -> None:
    line = encrypted
    line.run_job(JOB)
    change(disk)
    expected = sha256(disk)
    line.run_job(JOB)
    sizes = {path: path.stat().st_size for path in line.repository.rglob("*.vbf")}
    new = tmp_path / "new"
    new.write_text("another passphrase\r\n")
    line("repository", "passphrase", "main", "--passphrase-file", new)
    grown = {path: path.stat().st_size - sizes[path] for path in sizes}
    assert all(0 < bytes_ <= 64 * 1024 for bytes_ in grown.values())  # lists only
    line.run_job(JOB)
    points = line.points(JOB)
    assert len(points) == 3
    assert sha256(line.restore(points[1]["point_id"], DISK)) == expected
    set_key(line, "correct horse, battery staple")
    line.refused("wrong_passphrase", "verify", points[0]["point_id"], "--deep")
    set_key(line, "another passphrase")
    line("verify", points[0]["point_id"], "--deep")


def test_what_was_forged_with_right_checksums_is_found_with_the_key(encrypted: Any, disk: Path) -> None:
    line = encrypted
    line.run_job(JOB)
    point = line.points(JOB)[0]["point_id"]
    (path,) = line.repository.rglob("*.vbf")
    assert forge(path) > 3
    line("verify", point)
    line.refused("data_corrupt", "verify", point, "--deep")
    line.refused("data_corrupt", "restore", "disk", point, DISK, "--output", line.out / "forged.raw")
    assert disk.exists()


def test_a_chain_in_the_open_is_not_taken_for_one_of_an_encrypted_repository(line: Any, disk: Path) -> None:
    line.set_up(JOB)
    line.run_job(JOB)
    point = line.points(JOB)[0]["point_id"]
    set_key(line, "a passphrase")
    line.refused("not_encrypted", "restore", "disk", point, DISK, "--output", line.out / "planted.raw")
    assert disk.exists()


def test_bad_files_are_refused_and_nothing_is_added(line: Any, tmp_path: Path) -> None:
    bad = tmp_path / "bad"
    add = ("repository", "add", "main", "--path", line.repository, "--encrypt")
    for content in (b"", b"\n", b"two\nlines\n", b"\xff\xfe\n", b"x" * 5000):
        bad.write_bytes(content)
        line.refused("invalid_value", *add, "--passphrase-file", bad)
    bad.write_bytes(b"short")
    line.refused("invalid_value", *add, "--key-file", bad)
    line(*add, expect=2)
    line(*add[:-1], "--passphrase-file", bad, expect=2)
    assert "main" not in [one["name"] for one in line.json("repository", "list")]
    assert not line.repository.exists()


def test_a_target_mover_has_nowhere_to_get_a_key_from() -> None:
    told = (
        messages.TargetWork,
        messages.UseKeySlots,
        messages.ExpectTask,
        messages.CommitPoint,
        messages.ForgetPoints,
        messages.Seal,
    )
    for message in told:
        assert "ChainSecret" not in repr(typing.get_type_hints(message)), message
        assert not {"key", "secret", "secrets"} & set(message.__struct_fields__), message
    program = "import sys, vbrcore.mover.main, vbrcore.mover.target; sys.exit('cryptography' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_no_message_shows_its_key() -> None:
    secret = messages.ChainSecret(bytes(16), b"secretsecretsecret")
    assert "secretsecret" not in repr(messages.UseKey(secret)) + json.dumps(str(secret))


def test_a_change_of_passphrase_that_was_interrupted_locks_nobody_out(
    encrypted: Any, disk: Path, tmp_path: Path
) -> None:
    line = encrypted
    line.run_job(JOB)
    new, third = tmp_path / "new", tmp_path / "third"
    new.write_text("another passphrase\n")
    third.write_text("a third passphrase\n")
    catalog = Catalog.open(line.home)
    repository_id = catalog.repository_by_name("main").repository_id
    catalog.begin_key_change(repository_id, RepositoryKey(Secret("another passphrase")))
    catalog.close()
    line.run_job(JOB)
    line.add_job("second")
    line.run_job("second")  # a chain that begins meanwhile
    line.refused("in_use", "repository", "passphrase", "main", "--passphrase-file", third)
    line("repository", "passphrase", "main", "--passphrase-file", new)
    set_key(line, "another passphrase")  # alone
    for job in (JOB, "second"):
        assert sha256(line.restore(line.points(job)[0]["point_id"], DISK)) == sha256(disk)
    line("repository", "passphrase", "main", "--passphrase-file", third)
    line.run_job(JOB)
