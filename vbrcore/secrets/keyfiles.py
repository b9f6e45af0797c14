"""Files that hold what opens an encrypted chain: a passphrase on one line, or a key file's bytes."""

from pathlib import Path
from typing import Final

from vbrcore.model.errors import FileUnusable, InvalidValue
from vbrcore.secrets.secret import Secret, SecretBytes

MAX_PASSPHRASE_BYTES: Final = 4096
MIN_KEYFILE_BYTES: Final = 32
MAX_KEYFILE_BYTES: Final = 1024 * 1024


def read_passphrase(path: Path) -> Secret:
    """Return the one line of a file; the newline at its end (LF or CR LF) is not part of the passphrase.

    Raises `FileUnusable`, or `InvalidValue` where the file holds no passphrase: nothing, several lines, no UTF-8.
    """
    return passphrase_of(_read(path, MAX_PASSPHRASE_BYTES + len("\r\n")), str(path))


def passphrase_of(content: bytes, source: str) -> Secret:
    """As `read_passphrase`, of a file's content; `source` names it in messages."""
    line = content.removesuffix(b"\n")
    if line != content:
        line = line.removesuffix(b"\r")
    if not line:
        raise InvalidValue(f"{source} is empty: a passphrase is one line")
    if b"\n" in line or b"\r" in line:
        raise InvalidValue(f"{source} has several lines: a passphrase is one line")
    if len(line) > MAX_PASSPHRASE_BYTES:
        raise InvalidValue(f"{source} is too long: a passphrase has at most {MAX_PASSPHRASE_BYTES} bytes")
    try:
        return Secret(line.decode())
    except UnicodeDecodeError:
        # Without the cause, which holds and shows the bytes.
        raise InvalidValue(f"{source} is not UTF-8 text") from None


def read_keyfile(path: Path) -> SecretBytes:
    """Return all bytes of a key file: 32 to 1 MiB, best random ones. Raises `FileUnusable` or `InvalidValue`."""
    return keyfile_of(_read(path, MAX_KEYFILE_BYTES), str(path))


def keyfile_of(content: bytes, source: str) -> SecretBytes:
    """As `read_keyfile`, of a file's content."""
    if not MIN_KEYFILE_BYTES <= len(content) <= MAX_KEYFILE_BYTES:
        raise InvalidValue(f"{source}: a key file has {MIN_KEYFILE_BYTES} bytes to 1 MiB, best random ones")
    return SecretBytes(content)


def _read(path: Path, most_bytes: int) -> bytes:
    """Return the content, or one byte more than allowed where it has more."""
    try:
        with path.open("rb") as file:
            return file.read(most_bytes + 1)
    except OSError as error:
        raise FileUnusable(f"{path} cannot be read: {error.strerror}") from error
