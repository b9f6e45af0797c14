"""Key slots: the key of a chain, wrapped so that a passphrase or a key file opens it (docs/FORMAT.md section 7)."""

import secrets
import threading
from collections.abc import Sequence
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from vbrcore.backupfile.contents import KeySlot
from vbrcore.backupfile.encryption import (
    KEY_BYTES,
    NONCE_BYTES,
    SALT_BYTES,
    TAG_BYTES,
    ChainKey,
    checked_chain_id,
)
from vbrcore.model.errors import FormatInvalid, KeyNeeded, WrongPassphrase
from vbrcore.model.ids import new_id
from vbrcore.secrets.secret import Secret, SecretBytes

# RFC 9106 section 4, the second recommended option. Takes 0.08 to 0.11 s on one core of an AMD EPYC.
MEMORY_KIB: Final = 64 * 1024
PASSES: Final = 3
LANES: Final = 4
# OpenSSL computes the lanes in threads of one pool, and two computations at once wait for each other for ever.
_one_at_a_time = threading.Lock()

# What a file may ask for, whoever wrote it: bounds the memory and the time that a hostile one can take.
MAX_MEMORY_KIB: Final = 1024 * 1024
MAX_PASSES: Final = 16
MAX_LANES: Final = 16
MAX_SLOTS: Final = 16

_ARGON2ID: Final = "argon2id"
_KEYFILE: Final = "keyfile"
_KIB_PER_LANE = 8  # the least that Argon2 works with
_MAX_SALT_BYTES = 64


def add_passphrase_slot(chain_key: ChainKey, passphrase: Secret, chain_id: bytes) -> KeySlot:
    """Return a new slot that this passphrase opens."""
    salt = secrets.token_bytes(SALT_BYTES)
    wrapping = _stretched(passphrase, salt, MEMORY_KIB, PASSES, LANES)
    nonce, wrapped = _wrap(chain_key, wrapping, chain_id)
    return KeySlot(new_id(), _ARGON2ID, salt, MEMORY_KIB, PASSES, LANES, nonce, wrapped)


def add_keyfile_slot(chain_key: ChainKey, keyfile: SecretBytes, chain_id: bytes) -> KeySlot:
    """Return a new slot that a key file of this content opens."""
    salt = secrets.token_bytes(SALT_BYTES)
    nonce, wrapped = _wrap(chain_key, _derived(keyfile, salt), chain_id)
    return KeySlot(new_id(), _KEYFILE, salt, 0, 0, 0, nonce, wrapped)


def open_slots(
    slots: Sequence[KeySlot], chain_id: bytes, *, passphrase: Secret | None = None, keyfile: SecretBytes | None = None
) -> ChainKey:
    """Return the key of the chain from the first slot that opens with what is given; each try takes as one guess.

    Raises `WrongPassphrase` if none does, `KeyNeeded` if neither is given, `FormatInvalid` if there are too many slots,
    or if none opens and one could not be tried because its numbers are out of bounds.
    """
    if passphrase is None and keyfile is None:
        raise KeyNeeded("the chain's key is wrapped: neither a passphrase nor a key file was given")
    if len(slots) > MAX_SLOTS:
        raise FormatInvalid(f"the chain has {len(slots)} key slots; at most {MAX_SLOTS} are allowed")
    invalid: FormatInvalid | None = None
    for slot in slots:
        try:
            wrapping = _wrapping_key(slot, passphrase, keyfile)
        except FormatInvalid as error:  # a slot that somebody spoilt must not keep the others shut
            invalid = error
            continue
        chain_key = _unwrap(slot, wrapping, chain_id) if wrapping is not None else None
        if chain_key is not None:
            return chain_key
    if invalid is not None:
        raise invalid
    given = " and ".join(name for name, one in (("passphrase", passphrase), ("key file", keyfile)) if one is not None)
    raise WrongPassphrase(f"none of the {len(slots)} key slots of the chain opens with this {given}")


def _wrapping_key(slot: KeySlot, passphrase: Secret | None, keyfile: SecretBytes | None) -> bytes | None:
    """Return the key that the slot's wrapping needs, or None where the other kind of secret does. Checks all first."""
    if slot.kdf == _ARGON2ID and passphrase is not None:
        _check(slot)
        _check_cost(slot)
        return _stretched(passphrase, slot.salt, slot.memory_kib, slot.passes, slot.lanes)
    if slot.kdf == _KEYFILE and keyfile is not None:
        _check(slot)
        return _derived(keyfile, slot.salt)
    return None


def _check(slot: KeySlot) -> None:
    lengths_true = len(slot.nonce) == NONCE_BYTES and len(slot.wrapped) == KEY_BYTES + TAG_BYTES
    if not lengths_true or not SALT_BYTES <= len(slot.salt) <= _MAX_SALT_BYTES:
        raise FormatInvalid("a key slot has a salt, nonce or wrapped key of an impossible length")


def _check_cost(slot: KeySlot) -> None:
    lanes_true = 1 <= slot.lanes <= MAX_LANES and 1 <= slot.passes <= MAX_PASSES
    if not lanes_true or not _KIB_PER_LANE * slot.lanes <= slot.memory_kib <= MAX_MEMORY_KIB:
        raise FormatInvalid(
            f"a key slot asks for {slot.memory_kib} KiB, {slot.passes} passes and {slot.lanes} lanes; at most"
            f" {MAX_MEMORY_KIB} KiB, {MAX_PASSES} and {MAX_LANES} are allowed"
        )


def _stretched(passphrase: Secret, salt: bytes, memory_kib: int, passes: int, lanes: int) -> bytes:
    """Return Argon2id of the passphrase (32 bytes)."""
    kdf = Argon2id(salt=salt, length=KEY_BYTES, iterations=passes, lanes=lanes, memory_cost=memory_kib)
    with _one_at_a_time:
        return kdf.derive(passphrase.reveal().encode())


def _derived(keyfile: SecretBytes, salt: bytes) -> bytes:
    """Return HKDF of a key file's content (32 bytes): it is random, so nothing has to be stretched."""
    return HKDF(SHA256(), KEY_BYTES, salt, b"vbrcore keyfile").derive(keyfile.reveal())


def _wrap(chain_key: ChainKey, wrapping: bytes, chain_id: bytes) -> tuple[bytes, bytes]:
    """Return (nonce, the chain key wrapped)."""
    nonce = secrets.token_bytes(NONCE_BYTES)
    return nonce, AESGCM(wrapping).encrypt(nonce, chain_key.reveal(), checked_chain_id(chain_id))


def _unwrap(slot: KeySlot, wrapping: bytes, chain_id: bytes) -> ChainKey | None:
    """Return None where the wrapping key is not the slot's."""
    try:
        return ChainKey(AESGCM(wrapping).decrypt(slot.nonce, slot.wrapped, checked_chain_id(chain_id)))
    except InvalidTag:
        return None
