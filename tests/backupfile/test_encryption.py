"""Extents and points of encrypted chains: docs/FORMAT.md section 7 written out by hand, and every way to spoil them."""

import base64
import copy
import hashlib
import hmac
import itertools
import json
import logging
import pickle
import struct
import subprocess
import sys
import threading
from collections.abc import Callable

import msgspec
import pytest
from blake3 import blake3
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import GCM
from hypothesis import given, settings
from hypothesis import strategies as st

from vbrcore.backupfile.codec import CODEC_NONE, CODEC_ZSTD
from vbrcore.backupfile.contents import Contents, decode_contents, encode_contents
from vbrcore.backupfile.encryption import MAX_USES, OVERHEAD_BYTES, ChainKey, ExtentOpener, ExtentSealer
from vbrcore.backupfile.sealedpoints import (
    hidden_disk_id,
    hidden_machine_id,
    open_point,
    seal_point,
    verify_root_mac,
)
from vbrcore.backupfile.slots import Slot
from vbrcore.model.errors import DataCorrupt, FormatInvalid
from vbrcore.model.point import Point, PointDisk

RAW = bytes(range(32))
KEY = ChainKey(RAW)
OTHER_KEY = ChainKey(bytes(32))
CHAIN_ID = bytes(range(100, 116))
OTHER_CHAIN_ID = bytes(16)
CONTENT = b"what the guest wrote" * 50
DIGEST = KEY.digest(CONTENT)
POINT = Point(
    point_id="0f8fad5b-d9cb-469f-a165-70867728950e",
    session_id="s",
    job_id="j",
    job_name="nightly",
    plugin="images",
    machine_id="uuid-of-machine",
    machine="Möhre",
    kind="full",
    created=1764000000.123456,
    sequence=7,
    disks=(
        PointDisk("sda", "system disk", 1000, b"r" * 32, "change-1"),
        PointDisk("sdb", "data disk", 1 << 40, b"q" * 32),
    ),
    block_size_bytes=1 << 20,
    configuration=b"c" * 32,
    warnings=("compared in full",),
)
SECRET_WORDS = ("nightly", "uuid-of-machine", "Möhre", "M\\u00f6hre", "sda", "sdb", "system", "change-1", "compared")


def hkdf(key: bytes, salt: bytes, info: bytes) -> bytes:
    """RFC 5869 with SHA-256 and an output of 32 bytes, which is one round of expanding."""
    extracted = hmac.new(salt or bytes(32), key, hashlib.sha256).digest()
    return hmac.new(extracted, info + b"\x01", hashlib.sha256).digest()


def keyed_hash(info: bytes, message: bytes) -> bytes:
    return blake3(message, key=hkdf(RAW, b"", info)).digest()


def gcm_encrypt(key: bytes, nonce: bytes, plain: bytes, associated: bytes) -> bytes:
    encryptor = Cipher(AES(key), GCM(nonce)).encryptor()
    encryptor.authenticate_additional_data(associated)
    return encryptor.update(plain) + encryptor.finalize() + encryptor.tag


def gcm_decrypt(key: bytes, nonce: bytes, sealed: bytes, associated: bytes) -> bytes:
    decryptor = Cipher(AES(key), GCM(nonce, sealed[-16:])).decryptor()
    decryptor.authenticate_additional_data(associated)
    return decryptor.update(sealed[:-16]) + decryptor.finalize()


# --- the specification by hand ----------------------------------------------------------------------


def test_the_test_derives_as_the_rfc_says() -> None:
    """RFC 5869, test cases 1 and 3; the output is longer there."""
    secret = bytes([0x0B]) * 22
    first = hkdf(secret, bytes(range(13)), bytes(range(0xF0, 0xFA)))
    assert first.hex() == "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf"
    assert hkdf(secret, b"", b"").hex() == "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d"


def test_digests_and_extents_are_as_specified() -> None:
    assert KEY.digest(CONTENT) == keyed_hash(b"vbrcore digest", CONTENT) != blake3(CONTENT).digest()
    sealer = ExtentSealer(KEY, CHAIN_ID)
    for number in range(3):
        stored = bytes(sealer.seal(DIGEST, CODEC_ZSTD, CONTENT))
        salt, nonce, sealed = stored[:16], stored[16:28], stored[28:]
        assert nonce == struct.pack("<QI", number, 0)
        key = hkdf(RAW, salt, b"vbrcore extent")
        associated = DIGEST + b"\x01" + CHAIN_ID
        assert gcm_decrypt(key, nonce, sealed, associated) == CONTENT
        assert sealed == gcm_encrypt(key, nonce, CONTENT, associated)
        assert len(stored) == len(CONTENT) + OVERHEAD_BYTES == len(CONTENT) + 44


def test_extents_made_by_hand_open() -> None:
    salt, nonce = b"s" * 16, b"n" * 12
    key = hkdf(RAW, salt, b"vbrcore extent")
    stored = salt + nonce + gcm_encrypt(key, nonce, CONTENT, DIGEST + b"\x00" + CHAIN_ID)
    assert ExtentOpener(KEY, CHAIN_ID).open(DIGEST, CODEC_NONE, stored) == CONTENT


def test_names_are_sealed_as_specified() -> None:
    point = seal_point(POINT, KEY, CHAIN_ID)
    machine, first, second = b"uuid-of-machine", point.disks[0], point.disks[1]
    assert point.machine_id == keyed_hash(b"vbrcore machine", machine)[:16].hex()
    for disk, name in ((first, b"sda"), (second, b"sdb")):
        hidden = keyed_hash(b"vbrcore disk", struct.pack("<I", len(machine)) + machine + name)[:8]
        assert disk.disk_id == str(int.from_bytes(hidden, "little"))
    for number, disk in enumerate(point.disks):
        message = CHAIN_ID + point.point_id.encode() + struct.pack("<IQ", number, disk.size_bytes) + disk.root
        assert disk.root_mac == keyed_hash(b"vbrcore root", message)[:16]
    names = gcm_decrypt(hkdf(RAW, b"", b"vbrcore names"), point.sealed[:12], point.sealed[12:], point.point_id.encode())
    assert json.loads(names) == {
        "job_name": "nightly",
        "machine_id": "uuid-of-machine",
        "machine": "Möhre",
        "warnings": ["compared in full"],
        "disks": [
            {"disk_id": "sda", "name": "system disk", "change_id": "change-1"},
            {"disk_id": "sdb", "name": "data disk", "change_id": ""},
        ],
        "plugin": "images",
        "created": 1764000000.123456,
        "configuration": base64.b64encode(b"c" * 32).decode(),
    }


# --- extents ----------------------------------------------------------------------------------------


@settings(max_examples=50)
@given(content=st.binary(min_size=1, max_size=5000), codec=st.sampled_from([CODEC_NONE, CODEC_ZSTD]))
def test_extents_come_back(content: bytes, codec: int) -> None:
    digest = KEY.digest(content)
    stored = ExtentSealer(KEY, CHAIN_ID).seal(digest, codec, bytearray(content))
    opener = ExtentOpener(KEY, CHAIN_ID)
    assert opener.open(digest, codec, stored) == content
    buffer = memoryview(bytearray(len(content) + 3))
    assert opener.open_into(digest, codec, bytes(stored), buffer) == content
    if len(content) >= 16:
        assert content not in bytes(stored)


def test_a_large_configuration_comes_back() -> None:
    content = bytes(9 << 20)
    sealer = ExtentSealer(KEY, CHAIN_ID)
    stored = sealer.seal(DIGEST, CODEC_NONE, content)
    sealer.seal(DIGEST, CODEC_NONE, b"x")
    assert ExtentOpener(KEY, CHAIN_ID).open(DIGEST, CODEC_NONE, stored) == content


def _refused(stored: bytes, *, digest: bytes = DIGEST, codec: int = 1, opener: ExtentOpener | None = None) -> None:
    opener = opener or ExtentOpener(KEY, CHAIN_ID)
    with pytest.raises(DataCorrupt):
        opener.open(digest, codec, stored)
    with pytest.raises(DataCorrupt):
        opener.open_into(digest, codec, stored, memoryview(bytearray(len(stored))))


def test_no_part_of_an_extent_can_be_changed() -> None:
    stored = bytes(ExtentSealer(KEY, CHAIN_ID).seal(DIGEST, CODEC_ZSTD, CONTENT))
    places = [*range(29), 500, *range(len(stored) - 17, len(stored))]  # salt, nonce, ciphertext, tag
    for place, bit in itertools.product(places, (0, 7)):
        changed = bytearray(stored)
        changed[place] ^= 1 << bit
        _refused(bytes(changed))
    for length in (0, 1, 16, 27, 28, 43, 44, 45, len(stored) - 1):
        _refused(stored[:length])
    _refused(stored + b"\0")


def test_an_extent_is_good_in_its_place_only() -> None:
    sealer = ExtentSealer(KEY, CHAIN_ID)
    other = b"another block"
    stored = bytes(sealer.seal(DIGEST, CODEC_ZSTD, CONTENT))
    stored_other = bytes(sealer.seal(KEY.digest(other), CODEC_ZSTD, other))
    _refused(stored, codec=CODEC_NONE)
    _refused(stored, codec=255)
    _refused(stored, digest=KEY.digest(other))
    _refused(stored_other)
    _refused(stored, opener=ExtentOpener(KEY, OTHER_CHAIN_ID))
    _refused(stored, opener=ExtentOpener(OTHER_KEY, CHAIN_ID))
    _refused(stored_other[:16] + stored[16:28] + stored_other[28:])  # nonces swapped inside a task
    salt_of_another_task = bytes(ExtentSealer(KEY, CHAIN_ID).seal(DIGEST, CODEC_ZSTD, CONTENT))[:16]
    _refused(salt_of_another_task + stored[16:])


def test_an_extent_does_not_outgrow_its_buffer() -> None:
    stored = ExtentSealer(KEY, CHAIN_ID).seal(DIGEST, CODEC_NONE, CONTENT)
    with pytest.raises(DataCorrupt, match="more than it may"):
        ExtentOpener(KEY, CHAIN_ID).open_into(DIGEST, CODEC_NONE, stored, memoryview(bytearray(len(CONTENT) - 1)))


def test_no_nonce_is_used_twice() -> None:
    sealer, opener = ExtentSealer(KEY, CHAIN_ID), ExtentOpener(KEY, CHAIN_ID)
    heads: list[list[bytes]] = [[] for _ in range(8)]
    wrong: list[str] = []
    start = threading.Barrier(8)

    def work(thread: int) -> None:
        start.wait()
        for number in range(500):
            content = b"%d %d" % (thread, number)
            digest = KEY.digest(content)
            stored = sealer.seal(digest, CODEC_NONE, content)
            heads[thread].append(bytes(stored[:28]))
            if opener.open(digest, CODEC_NONE, stored) != content:
                wrong.append(f"{thread} {number}")

    threads = [threading.Thread(target=work, args=(thread,)) for thread in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    used = list(itertools.chain(*heads))
    assert wrong == []
    assert len({head[:16] for head in used}) == 1
    assert sorted(int.from_bytes(head[16:], "little") for head in used) == list(range(4000))


def test_a_salt_that_is_used_up_is_replaced() -> None:
    sealer, opener = ExtentSealer(KEY, CHAIN_ID), ExtentOpener(KEY, CHAIN_ID)
    sealer._uses = MAX_USES - 1
    last, first, second = (bytes(sealer.seal(DIGEST, CODEC_NONE, CONTENT)) for _ in range(3))
    assert [int.from_bytes(one[16:28], "little") for one in (last, first, second)] == [MAX_USES - 1, 0, 1]
    assert last[:16] != first[:16] == second[:16]
    assert all(opener.open(DIGEST, CODEC_NONE, one) == CONTENT for one in (last, first, second))


def test_salts_without_number_take_no_memory_without_bound() -> None:
    opener = ExtentOpener(KEY, CHAIN_ID)
    for number in range(1000):
        with pytest.raises(DataCorrupt):
            opener.open(DIGEST, CODEC_NONE, number.to_bytes(44, "little"))
    assert len(opener._ciphers) <= 256


# --- points -----------------------------------------------------------------------------------------


def test_points_come_back_and_say_nothing_meanwhile() -> None:
    sealed = seal_point(POINT, KEY, CHAIN_ID)
    shown = msgspec.json.encode(sealed).decode() + repr(sealed)
    assert not any(word in shown for word in SECRET_WORDS)
    assert open_point(sealed, KEY, CHAIN_ID) == POINT
    stored = msgspec.structs.replace(sealed, sequence=8, kind="increment", flags=1)  # what the writer may do
    assert open_point(stored, KEY, CHAIN_ID) == msgspec.structs.replace(POINT, sequence=8, kind="increment", flags=1)
    with pytest.raises(ValueError, match="already"):
        seal_point(sealed, KEY, CHAIN_ID)


def test_machines_and_disks_keep_their_ids_in_a_chain() -> None:
    first = seal_point(POINT, KEY, CHAIN_ID)
    later = msgspec.structs.replace(POINT, point_id="7c9e6679-7425-40de-944b-e07fc1f90ae7", machine="renamed")
    again = seal_point(later, KEY, CHAIN_ID)
    assert first.sealed != again.sealed
    assert first.machine_id == again.machine_id == hidden_machine_id(POINT.machine_id, KEY)
    assert [disk.disk_id for disk in first.disks] == [disk.disk_id for disk in again.disks]
    assert first.disks[1].disk_id == hidden_disk_id(POINT.machine_id, "sdb", KEY)
    assert hidden_machine_id(POINT.machine_id, OTHER_KEY) != first.machine_id
    assert hidden_disk_id("ab", "c", KEY) != hidden_disk_id("a", "bc", KEY)


def _with_disk(point: Point, number: int, **changes: object) -> Point:
    disks = list(point.disks)
    disks[number] = msgspec.structs.replace(disks[number], **changes)
    return msgspec.structs.replace(point, disks=tuple(disks))


CHANGES: dict[str, Callable[[Point], Point]] = {
    "root": lambda point: _with_disk(point, 0, root=b"s" * 32),
    "size": lambda point: _with_disk(point, 1, size_bytes=1 << 41),
    "mac": lambda point: _with_disk(point, 0, root_mac=bytes(16)),
    "no mac": lambda point: _with_disk(point, 0, root_mac=b""),
    "disks swapped": lambda point: msgspec.structs.replace(point, disks=point.disks[::-1]),
    "disk dropped": lambda point: msgspec.structs.replace(point, disks=point.disks[:1]),
    "no disks": lambda point: msgspec.structs.replace(point, disks=()),
    "id": lambda point: msgspec.structs.replace(point, point_id="7c9e6679-7425-40de-944b-e07fc1f90ae7"),
    "no id": lambda point: msgspec.structs.replace(point, point_id="\u00e4" * 18),
    "configuration": lambda point: msgspec.structs.replace(point, configuration=b"d" * 32),
    "time": lambda point: msgspec.structs.replace(point, created=1.0),
    "plugin": lambda point: msgspec.structs.replace(point, plugin="kvm"),
    "not sealed": lambda point: msgspec.structs.replace(point, sealed=b"", disks=()),
    "short": lambda point: msgspec.structs.replace(point, sealed=point.sealed[:9], disks=()),
    "names": lambda point: msgspec.structs.replace(point, sealed=bytes(12) + point.sealed[12:]),
    "tag": lambda point: msgspec.structs.replace(point, sealed=point.sealed[:-1] + bytes([point.sealed[-1] ^ 1])),
}


@pytest.mark.parametrize("change", CHANGES)
def test_no_part_of_a_point_can_be_changed(change: str) -> None:
    changed = CHANGES[change](seal_point(POINT, KEY, CHAIN_ID))
    with pytest.raises(DataCorrupt):
        open_point(changed, KEY, CHAIN_ID)


def test_points_open_with_their_key_and_chain_only() -> None:
    sealed = seal_point(POINT, KEY, CHAIN_ID)
    verify_root_mac(sealed, KEY, CHAIN_ID)
    for key, chain_id in ((OTHER_KEY, CHAIN_ID), (KEY, OTHER_CHAIN_ID)):
        with pytest.raises(DataCorrupt, match="not authentic"):
            verify_root_mac(sealed, key, chain_id)
        with pytest.raises(DataCorrupt):
            open_point(sealed, key, chain_id)
    without_disks = msgspec.structs.replace(POINT, disks=())
    assert open_point(seal_point(without_disks, KEY, CHAIN_ID), KEY, CHAIN_ID) == without_disks
    with pytest.raises(DataCorrupt, match="another key"):
        open_point(seal_point(without_disks, KEY, CHAIN_ID), OTHER_KEY, CHAIN_ID)


def test_what_is_sealed_but_no_names_is_refused() -> None:
    point = seal_point(POINT, KEY, CHAIN_ID)
    key, nonce = hkdf(RAW, b"", b"vbrcore names"), b"n" * 12
    for text in (b"", b"{}", b'{"job_name": 1}', b"\xff"):
        sealed = nonce + gcm_encrypt(key, nonce, text, point.point_id.encode())
        with pytest.raises(DataCorrupt):
            open_point(msgspec.structs.replace(point, sealed=sealed), KEY, CHAIN_ID)


def _contents(point: Point) -> Contents:
    return Contents("w", 1, 2, "s", "j", "", 1.5, 1, ("00" * 16,), points=(point,))


def test_sealed_points_stand_in_contents_lists_beside_older_ones() -> None:
    slot = Slot(7, 1, 1 << 20, b"f" * 16, CHAIN_ID, b"g" * 16, 1 << 40, 1 << 20, 300, b"h" * 32, 1)
    sealed = seal_point(POINT, KEY, CHAIN_ID)
    contents, _ = decode_contents(encode_contents(_contents(sealed)), slot)
    assert open_point(contents.points[0], KEY, CHAIN_ID) == POINT

    text = encode_contents(_contents(POINT))[16:].replace(b',"root_mac":""', b"").replace(b',"sealed":""', b"")
    assert b"root_mac" not in text
    assert b"sealed" not in text
    older = b"VBRCLIST" + struct.pack("<II", len(text), 0) + text
    assert decode_contents(older, slot)[0].points == (POINT,)

    with pytest.raises(FormatInvalid, match="authentication"):
        decode_contents(encode_contents(_contents(_with_disk(POINT, 0, root_mac=b"x"))), slot)


# --- secrecy ----------------------------------------------------------------------------------------


def test_the_key_is_shown_by_nothing(caplog: pytest.LogCaptureFixture) -> None:
    key = ChainKey.random()
    sealer, opener = ExtentSealer(key, CHAIN_ID), ExtentOpener(key, CHAIN_ID)
    with caplog.at_level(logging.DEBUG):
        logging.getLogger("test").info("key %s %r", key, key)
    shown = [str(key), repr(key), f"{key}", f"{key!r:>9}", repr([key]), repr(sealer), repr(opener), caplog.text]
    failures: list[Callable[[], object]] = [
        lambda: opener.open(DIGEST, 1, bytes(60)),
        lambda: opener.open_into(DIGEST, 1, bytes(60), memoryview(bytearray(60))),
        lambda: open_point(seal_point(POINT, KEY, CHAIN_ID), key, CHAIN_ID),
        lambda: ChainKey(key.reveal()[:31]),
    ]
    for failure in failures:
        with pytest.raises(DataCorrupt) as caught:
            failure()
        shown += [str(caught.value), repr(caught.value), str(caught.value.info())]
    for form in (key.reveal().hex(), str(key.reveal()), base64.b64encode(key.reveal()).decode()):
        assert not any(form in text for text in shown)
    assert shown[:3] == ["***"] * 3


def test_the_key_stays_in_its_process() -> None:
    for copied in (pickle.dumps, copy.copy, copy.deepcopy, msgspec.json.encode, msgspec.msgpack.encode):
        with pytest.raises(TypeError):
            copied(KEY)
    with pytest.raises(TypeError):
        pickle.dumps(ExtentSealer(KEY, CHAIN_ID))


def test_keys_are_random_and_equal_by_value() -> None:
    assert ChainKey.random() != ChainKey.random()
    assert ChainKey(RAW) == KEY != OTHER_KEY
    assert KEY != RAW
    assert len({KEY, ChainKey(RAW), OTHER_KEY}) == 2
    with pytest.raises(ValueError, match="chain id"):
        ExtentSealer(KEY, b"short")
    with pytest.raises(ValueError, match="chain id"):
        ExtentOpener(KEY, b"short")


def test_a_source_mover_does_without_until_it_encrypts() -> None:
    program = "import sys, vbrcore.mover.main, vbrcore.mover.source; sys.exit('cryptography' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)
