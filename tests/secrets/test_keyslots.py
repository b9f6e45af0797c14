"""Key slots: docs/FORMAT.md section 7 by hand, hostile slots, and the files that passphrases and keys come from."""

import hashlib
import hmac
import os
import pickle
import threading
import traceback
from pathlib import Path

import msgspec
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import GCM
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

from vbrcore.backupfile.contents import KeySlot
from vbrcore.backupfile.encryption import ChainKey
from vbrcore.model.errors import FileUnusable, FormatInvalid, InvalidValue, KeyNeeded, WrongPassphrase
from vbrcore.secrets.keyfiles import keyfile_of, passphrase_of, read_keyfile, read_passphrase
from vbrcore.secrets.keyslots import MAX_SLOTS, add_keyfile_slot, add_passphrase_slot, open_slots
from vbrcore.secrets.secret import Secret, SecretBytes

RAW = bytes(range(32))
KEY = ChainKey(RAW)
CHAIN_ID = bytes(range(100, 116))
PASSPHRASE = Secret("Zürich horse battery")
KEYFILE = SecretBytes(bytes(range(200, 248)))
SLOT = add_passphrase_slot(KEY, PASSPHRASE, CHAIN_ID)
KEYFILE_SLOT = add_keyfile_slot(KEY, KEYFILE, CHAIN_ID)


def unwrap(slot: KeySlot, wrapping: bytes) -> bytes:
    decryptor = Cipher(AES(wrapping), GCM(slot.nonce, slot.wrapped[-16:])).decryptor()
    decryptor.authenticate_additional_data(CHAIN_ID)
    return decryptor.update(slot.wrapped[:-16]) + decryptor.finalize()


def cheap_slot(passphrase: Secret, **changes: object) -> KeySlot:
    """Make a slot as another program might, by hand and with the least cost."""
    salt, nonce = os.urandom(16), os.urandom(12)
    wrapping = Argon2id(salt=salt, length=32, iterations=1, lanes=1, memory_cost=8)
    encryptor = Cipher(AES(wrapping.derive(passphrase.reveal().encode())), GCM(nonce)).encryptor()
    encryptor.authenticate_additional_data(CHAIN_ID)
    wrapped = encryptor.update(RAW) + encryptor.finalize() + encryptor.tag
    return msgspec.structs.replace(KeySlot("k", "argon2id", salt, 8, 1, 1, nonce, wrapped), **changes)


def test_a_passphrase_slot_is_as_specified() -> None:
    assert (SLOT.kdf, SLOT.memory_kib, SLOT.passes, SLOT.lanes) == ("argon2id", 65536, 3, 4)
    assert (len(SLOT.salt), len(SLOT.nonce), len(SLOT.wrapped)) == (16, 12, 48)
    wrapping = Argon2id(salt=SLOT.salt, length=32, iterations=3, lanes=4, memory_cost=65536)
    assert unwrap(SLOT, wrapping.derive("Zürich horse battery".encode())) == RAW


def test_a_keyfile_slot_is_as_specified() -> None:
    assert (KEYFILE_SLOT.kdf, KEYFILE_SLOT.memory_kib, KEYFILE_SLOT.passes, KEYFILE_SLOT.lanes) == ("keyfile", 0, 0, 0)
    extracted = hmac.new(KEYFILE_SLOT.salt, KEYFILE.reveal(), hashlib.sha256).digest()
    wrapping = hmac.new(extracted, b"vbrcore keyfile\x01", hashlib.sha256).digest()
    assert unwrap(KEYFILE_SLOT, wrapping) == RAW


def test_any_one_slot_opens_the_chain() -> None:
    slots = [cheap_slot(Secret("other")), KEYFILE_SLOT, SLOT]
    assert open_slots(slots, CHAIN_ID, passphrase=PASSPHRASE) == KEY
    assert open_slots(slots, CHAIN_ID, passphrase=Secret("other")) == KEY
    assert open_slots(slots, CHAIN_ID, keyfile=KEYFILE) == KEY
    assert open_slots(slots, CHAIN_ID, passphrase=Secret("wrong"), keyfile=KEYFILE) == KEY


def test_nothing_else_opens_it() -> None:
    slot = cheap_slot(PASSPHRASE)
    for wrong in (Secret("zürich horse battery"), Secret(PASSPHRASE.reveal() + "\n"), Secret("")):
        with pytest.raises(WrongPassphrase, match="passphrase"):
            open_slots([slot], CHAIN_ID, passphrase=wrong)
    with pytest.raises(WrongPassphrase):
        open_slots([slot], bytes(16), passphrase=PASSPHRASE)
    with pytest.raises(WrongPassphrase, match="key file"):
        open_slots([slot, KEYFILE_SLOT], CHAIN_ID, keyfile=SecretBytes(bytes(48)))
    with pytest.raises(WrongPassphrase):
        open_slots([], CHAIN_ID, passphrase=PASSPHRASE)
    with pytest.raises(KeyNeeded):
        open_slots([slot], CHAIN_ID)
    for field in ("salt", "nonce", "wrapped"):
        value = bytearray(getattr(slot, field))
        value[-1] ^= 1
        with pytest.raises(WrongPassphrase):
            open_slots([msgspec.structs.replace(slot, **{field: bytes(value)})], CHAIN_ID, passphrase=PASSPHRASE)


HOSTILE: list[dict[str, object]] = [
    {"memory_kib": 1 << 40},
    {"memory_kib": (1 << 20) + 1},
    {"memory_kib": 7},
    {"memory_kib": -1},
    {"passes": 17},
    {"passes": 0},
    {"passes": 1 << 60},
    {"lanes": 17},
    {"lanes": 0},
    {"lanes": 2},
    {"salt": b""},
    {"salt": bytes(65)},
    {"nonce": b""},
    {"nonce": bytes(13)},
    {"wrapped": b""},
    {"wrapped": bytes(1 << 20)},
]


@pytest.mark.parametrize("change", HOSTILE)
def test_hostile_slots_are_refused_before_they_cost(change: dict[str, object]) -> None:
    slot = cheap_slot(PASSPHRASE, **change)
    with pytest.raises(FormatInvalid):
        open_slots([slot], CHAIN_ID, passphrase=PASSPHRASE)
    assert open_slots([slot, cheap_slot(PASSPHRASE)], CHAIN_ID, passphrase=PASSPHRASE) == KEY


def test_slots_of_later_versions_and_too_many_slots() -> None:
    later = cheap_slot(PASSPHRASE, kdf="argon3")
    assert open_slots([later, cheap_slot(PASSPHRASE)], CHAIN_ID, passphrase=PASSPHRASE) == KEY
    with pytest.raises(WrongPassphrase):
        open_slots([later], CHAIN_ID, passphrase=PASSPHRASE)
    with pytest.raises(FormatInvalid, match="17 key slots"):
        open_slots([cheap_slot(PASSPHRASE)] * (MAX_SLOTS + 1), CHAIN_ID, passphrase=PASSPHRASE)


# --- files ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", [b"one line", b"one line\n", b"one line\r\n"])
def test_a_final_newline_is_not_part_of_a_passphrase(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "passphrase"
    path.write_bytes(content)
    assert read_passphrase(path) == Secret("one line")


def test_everything_else_is_part_of_it(tmp_path: Path) -> None:
    path = tmp_path / "passphrase"
    path.write_bytes(" Zürich\t \n".encode())
    assert read_passphrase(path) == Secret(" Zürich\t ")
    path.write_bytes(b"x" * 4096 + b"\r\n")
    assert len(read_passphrase(path).reveal()) == 4096


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty"),
        (b"\n", "empty"),
        (b"\r\n", "empty"),
        (b"hunter2\nhunter3", "several lines"),
        (b"hunter2\n\n", "several lines"),
        (b"hunter2\r", "several lines"),
        (b"\nhunter2", "several lines"),
        (b"hunter2\xff\n", "UTF-8"),
        (b"x" * 4097, "too long"),
        (b"x" * 100_000, "too long"),
    ],
)
def test_what_is_no_passphrase_is_named(content: bytes, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "passphrase"
    path.write_bytes(content)
    with pytest.raises(InvalidValue, match=reason) as caught:
        read_passphrase(path)
    assert str(path) in str(caught.value)
    assert "hunter" not in "".join(traceback.format_exception(caught.value))
    with pytest.raises(InvalidValue, match=f"^the passphrase .*{reason}"):
        passphrase_of(content, "the passphrase")


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    for path in (tmp_path / "absent", tmp_path):
        with pytest.raises(FileUnusable, match=str(path)):
            read_passphrase(path)
        with pytest.raises(FileUnusable, match=str(path)):
            read_keyfile(path)


def test_key_files_are_taken_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "key"
    for content in (bytes(31) + b"\n", b"\xff" * 32, os.urandom(1 << 20)):
        path.write_bytes(content)
        assert read_keyfile(path) == SecretBytes(content) == keyfile_of(content, "the key file")
    for content in (b"", bytes(31), bytes((1 << 20) + 1)):
        path.write_bytes(content)
        with pytest.raises(InvalidValue, match="key file"):
            read_keyfile(path)


# --- secrecy ----------------------------------------------------------------------------------------


def test_passphrases_and_key_files_are_shown_by_nothing() -> None:
    shown = [repr(KEYFILE), str(KEYFILE), f"{KEYFILE}", repr(SLOT), repr(KEYFILE_SLOT)]
    slots = [cheap_slot(Secret("other")), KEYFILE_SLOT]
    wrong_file = SecretBytes(bytes(range(100, 150)))
    with pytest.raises(WrongPassphrase) as caught:
        open_slots(slots, CHAIN_ID, passphrase=PASSPHRASE, keyfile=wrong_file)
    error = caught.value
    trace = traceback.TracebackException.from_exception(error, capture_locals=True)
    shown += [str(error), repr(error), str(error.info()), "".join(trace.format())]
    for form in (PASSPHRASE.reveal(), str(wrong_file.reveal()), wrong_file.reveal().hex(), str(RAW), RAW.hex()):
        assert not any(form in text for text in shown[:-1])
    assert PASSPHRASE.reveal() not in shown[-1]
    assert shown[:3] == ["***"] * 3


def test_secret_bytes_stay_in_their_process_and_are_equal_by_value() -> None:
    with pytest.raises(TypeError):
        pickle.dumps(KEYFILE)
    with pytest.raises(TypeError):
        msgspec.json.encode(KEYFILE)
    assert SecretBytes(b"a") == SecretBytes(b"a") != SecretBytes(b"b")
    assert len({SecretBytes(b"a"), SecretBytes(b"a")}) == 1
    assert SecretBytes(b"a") != Secret("a")


def test_two_passphrases_are_stretched_at_the_same_time() -> None:
    """As when the chains of two machines begin. OpenSSL alone would have both wait for each other for ever."""
    slots: list[KeySlot] = []
    begun = threading.Barrier(2)

    def wrap() -> None:
        begun.wait(10)
        slots.append(add_passphrase_slot(ChainKey.random(), Secret("one good passphrase"), bytes(16)))

    threads = [threading.Thread(target=wrap, daemon=True) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(slots) == 2
