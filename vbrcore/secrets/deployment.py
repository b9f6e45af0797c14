"""The deployment key: seals secrets before they are written to the catalog."""

import os
import secrets
from contextlib import suppress
from pathlib import Path

from vbrcore.model.errors import DataCorrupt, PermissionRefused
from vbrcore.secrets.secret import Secret

_KEY_BYTES = 32
_NONCE_BYTES = 12
_VERSION = b"\x01"
_GROUP_AND_OTHERS = 0o077


class DeploymentKey:
    """AES-256-GCM with a key in a file of mode 0600, made when it is first needed.

    A sealed secret is version (1 byte), nonce (12 bytes), ciphertext with tag. `place` says where it stands, so that a
    sealed value moved to another row is not accepted there.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def seal(self, secret: Secret, place: str) -> bytes:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # noqa: PLC0415 - most processes seal nothing

        nonce = secrets.token_bytes(_NONCE_BYTES)
        sealed = AESGCM(self._key(make=True)).encrypt(nonce, secret.reveal().encode(), _VERSION + place.encode())
        return _VERSION + nonce + sealed

    def unseal(self, sealed: bytes, place: str) -> Secret:
        """Raise `DataCorrupt` for what this key did not seal at this place."""
        from cryptography.exceptions import InvalidTag  # noqa: PLC0415
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # noqa: PLC0415

        nonce, body = sealed[1 : 1 + _NONCE_BYTES], sealed[1 + _NONCE_BYTES :]
        try:
            plain = AESGCM(self._key(make=False)).decrypt(nonce, body, sealed[:1] + place.encode())
        except (InvalidTag, ValueError) as error:
            raise DataCorrupt(f"a sealed secret does not fit the key {self._path}") from error
        return Secret(plain.decode())

    def _key(self, *, make: bool) -> bytes:
        """Read the key. Raises `PermissionRefused` where others could read it too, `DataCorrupt` where it is none."""
        if make and not self._path.exists():
            self._make()
        try:
            with self._path.open("rb") as file:
                if os.fstat(file.fileno()).st_mode & _GROUP_AND_OTHERS:
                    raise PermissionRefused(f"{self._path} can be read by others: it must have mode 0600")
                key = file.read(_KEY_BYTES + 1)
        except FileNotFoundError as error:
            raise DataCorrupt(f"the deployment key {self._path} is missing") from error
        if len(key) != _KEY_BYTES:
            raise DataCorrupt(f"{self._path} is no deployment key")
        return key

    def _make(self) -> None:
        """Write a key under another name first: a key file is whole or not there. A rival's key stays."""
        part = self._path.with_name(f".{self._path.name}.{secrets.token_hex(4)}")
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(secrets.token_bytes(_KEY_BYTES))
                file.flush()
                os.fsync(file.fileno())
            with suppress(FileExistsError):
                os.link(part, self._path)
        finally:
            part.unlink()
        directory = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
