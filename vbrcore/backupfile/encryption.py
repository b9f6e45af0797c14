"""The key of an encrypted chain, and extents sealed with it (docs/FORMAT.md section 7).

cryptography is imported here and below, so who may have to do without encryption imports this module where it is used.
"""

import hmac
import secrets
import threading
from typing import Final

from blake3 import blake3
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from vbrcore.backupfile.codec import Buffer, decompress
from vbrcore.backupfile.rows import Row
from vbrcore.model.errors import DataCorrupt

KEY_BYTES: Final = 32
CHAIN_ID_BYTES: Final = 16
SALT_BYTES: Final = 16
NONCE_BYTES: Final = 12
TAG_BYTES: Final = 16
# How much longer than what the codec made an extent is stored.
OVERHEAD_BYTES: Final = SALT_BYTES + NONCE_BYTES + TAG_BYTES
MAX_USES: Final = 1 << 32

_HIDDEN = "***"
_PACKED_OFFSET = SALT_BYTES + NONCE_BYTES
_KEPT_BYTES = 8 * 1024 * 1024  # blocks have at most 4 MiB; a buffer for a large configuration is not kept
_MAX_SALTS = 256


class ChainKey:
    """32 bytes that open a chain. Shown as `***`, equal by value, and never pickled or copied.

    Raises `DataCorrupt` for bytes of another length.
    """

    __slots__ = ("_digest_key", "_raw")

    def __init__(self, raw: bytes) -> None:
        if len(raw) != KEY_BYTES:
            raise DataCorrupt(f"a chain key has {KEY_BYTES} bytes, not {len(raw)}")
        self._raw = bytes(raw)
        self._digest_key = self.subkey(b"vbrcore digest")

    @classmethod
    def random(cls) -> "ChainKey":
        """Make the key of a new chain."""
        return cls(secrets.token_bytes(KEY_BYTES))

    def reveal(self) -> bytes:
        """Give the key out: only to wrap it, or for the `secrets` of a message to a mover."""
        return self._raw

    def subkey(self, info: bytes, salt: bytes | None = None) -> bytes:
        """Return HKDF-SHA-256 of the key (32 bytes). It costs 3 µs, so nobody keeps them."""
        return HKDF(SHA256(), KEY_BYTES, salt, info).derive(self._raw)

    def digest(self, content: Buffer) -> bytes:
        """Return the keyed BLAKE3 of a block or configuration (32 bytes): its name in this chain."""
        return blake3(content, key=self._digest_key).digest()

    def keyed_hash(self, info: bytes, message: bytes) -> bytes:
        """Return the keyed BLAKE3 of `message` (32 bytes) with the subkey of that purpose."""
        return blake3(message, key=self.subkey(info)).digest()

    def __repr__(self) -> str:
        return _HIDDEN

    def __format__(self, _spec: str) -> str:
        return _HIDDEN

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ChainKey) and hmac.compare_digest(other._raw, self._raw)

    def __hash__(self) -> int:
        return hash(self._raw)

    def __reduce__(self) -> str:
        raise TypeError("a chain key is not copied out of its process")


class ExtentSealer:
    """Encrypts the extents of one task, under a salt of its own. Safe for several threads.

    A nonce is never used twice: it counts the uses of the salt, and after 2^32 of them another salt is taken.
    """

    def __init__(self, chain_key: ChainKey, chain_id: bytes) -> None:
        self._chain_key = chain_key
        self._chain_id = checked_chain_id(chain_id)
        self._buffers = threading.local()
        self._lock = threading.Lock()  # of everything below
        self._uses = 0
        self._salt = secrets.token_bytes(SALT_BYTES)
        self._cipher = _cipher(chain_key, self._salt)

    def seal(self, digest: bytes, codec: int, packed: Buffer) -> memoryview:
        """Return what is stored: salt, nonce, ciphertext and tag, 44 bytes more than `packed` has.

        The result is a buffer of the calling thread, which its next call fills anew: fresh memory for each block would
        cost ten times as much as its encryption.
        """
        cipher, salt, nonce = self._next()
        stored = self._buffer(len(packed) + OVERHEAD_BYTES)
        stored[:SALT_BYTES] = salt
        stored[SALT_BYTES:_PACKED_OFFSET] = nonce
        cipher.encrypt_into(nonce, packed, _associated(digest, codec, self._chain_id), stored[_PACKED_OFFSET:])
        return stored

    def _next(self) -> tuple[AESGCM, bytes, bytes]:
        with self._lock:
            if self._uses == MAX_USES:
                self._salt = secrets.token_bytes(SALT_BYTES)
                self._cipher = _cipher(self._chain_key, self._salt)
                self._uses = 0
            nonce = self._uses.to_bytes(NONCE_BYTES, "little")
            self._uses += 1
            return self._cipher, self._salt, nonce

    def _buffer(self, size_bytes: int) -> memoryview:
        """Return the calling thread's buffer, cut to this size."""
        if size_bytes > _KEPT_BYTES:
            return memoryview(bytearray(size_bytes))
        buffer: memoryview | None = getattr(self._buffers, "buffer", None)
        if buffer is None or len(buffer) < size_bytes:
            buffer = self._buffers.buffer = memoryview(bytearray(size_bytes))
        return buffer[:size_bytes]


class ExtentOpener:
    """Decrypts extents of a chain, whichever tasks wrote them. Safe for several threads."""

    def __init__(self, chain_key: ChainKey, chain_id: bytes) -> None:
        self._chain_key = chain_key
        self._chain_id = checked_chain_id(chain_id)
        self._ciphers: dict[bytes, AESGCM] = {}
        self._lock = threading.Lock()

    def open(self, digest: bytes, codec: int, stored: Buffer) -> bytes:
        """Return what the codec made of the extent with that row.

        Raises `DataCorrupt` for anything that this chain's key did not seal as just this extent.
        """
        cipher, nonce, sealed = self._parts(digest, stored)
        try:
            return cipher.decrypt(nonce, sealed, _associated(digest, codec, self._chain_id))
        except InvalidTag as error:
            raise _refused(digest) from error

    def open_into(self, digest: bytes, codec: int, stored: Buffer, buffer: memoryview) -> memoryview:
        """As `open`, into the start of `buffer`: for who keeps one. Returns the part that was filled.

        Raises `DataCorrupt` also where the buffer is too small; it may then hold anything.
        """
        cipher, nonce, sealed = self._parts(digest, stored)
        packed_bytes = len(sealed) - TAG_BYTES
        if packed_bytes > len(buffer):
            raise DataCorrupt(f"the extent of {digest.hex()[:16]} holds {packed_bytes} bytes, more than it may")
        packed = buffer[:packed_bytes]
        try:
            cipher.decrypt_into(nonce, sealed, _associated(digest, codec, self._chain_id), packed)
        except InvalidTag as error:
            raise _refused(digest) from error
        return packed

    def open_row(self, row: Row, stored: Buffer, buffer: memoryview) -> memoryview:
        """As `open_into`. Raises `DataCorrupt` also for an extent in the open: nobody with the key wrote it."""
        _check_encrypted(row)
        return self.open_into(row.digest, row.codec, stored, buffer)

    def content(self, row: Row, stored: Buffer) -> bytes:
        """Return the raw content of an extent, verified by its keyed digest. Raises `DataCorrupt`."""
        _check_encrypted(row)
        raw = decompress(self.open(row.digest, row.codec, stored), row.raw_length, row.codec)
        if self.digest(raw) != row.digest:
            raise DataCorrupt(f"the content of {row.digest.hex()[:16]} has another digest")
        return bytes(raw)

    def digest(self, raw: Buffer) -> bytes:
        """Return the name of this content in the chain."""
        return self._chain_key.digest(raw)

    def _parts(self, digest: bytes, stored: Buffer) -> tuple[AESGCM, memoryview, memoryview]:
        """Return (cipher, nonce, ciphertext and tag)."""
        if len(stored) < OVERHEAD_BYTES:
            raise DataCorrupt(f"the extent of {digest.hex()[:16]} is too short to be an encrypted one")
        view = memoryview(stored)
        return self._cipher(bytes(view[:SALT_BYTES])), view[SALT_BYTES:_PACKED_OFFSET], view[_PACKED_OFFSET:]

    def _cipher(self, salt: bytes) -> AESGCM:
        with self._lock:
            cipher = self._ciphers.pop(salt, None) or _cipher(self._chain_key, salt)
            self._ciphers[salt] = cipher  # the newest is last
            if len(self._ciphers) > _MAX_SALTS:
                del self._ciphers[next(iter(self._ciphers))]
            return cipher


def _check_encrypted(row: Row) -> None:
    if not row.encrypted:
        raise DataCorrupt(f"the extent of {row.digest.hex()[:16]} is not encrypted as its chain is")


def checked_chain_id(chain_id: bytes) -> bytes:
    """Return a chain id. Raises `ValueError`: lengths are fixed so that what is authenticated has one meaning only."""
    if len(chain_id) != CHAIN_ID_BYTES:
        raise ValueError(f"a chain id has {CHAIN_ID_BYTES} bytes")
    return chain_id


def _cipher(chain_key: ChainKey, salt: bytes) -> AESGCM:
    return AESGCM(chain_key.subkey(b"vbrcore extent", salt))


def _refused(digest: bytes) -> DataCorrupt:
    return DataCorrupt(
        f"the extent of {digest.hex()[:16]} cannot be decrypted: it is damaged, or not of this chain and key"
    )


def _associated(digest: bytes, codec: int, chain_id: bytes) -> bytes:
    return b"%b%c%b" % (digest, codec, chain_id)
