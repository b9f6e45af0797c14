"""What the chains of an encrypted repository are locked with: a passphrase, a key file, or either of both."""

import base64
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final, Self

import msgspec

from vbrcore.backupfile.contents import KeySlot
from vbrcore.secrets.secret import Secret, SecretBytes

if TYPE_CHECKING:
    from vbrcore.backupfile.encryption import ChainKey

_PASSPHRASE: Final = "passphrase"  # noqa: S105 - the name of a column's value, not a passphrase
_KEYFILE: Final = "keyfile"


class RepositoryKey(msgspec.Struct, frozen=True):
    """At least one is given. cryptography is imported when a key slot is opened or made, not before."""

    passphrase: Secret | None = None
    keyfile: SecretBytes | None = None

    def open(self, key_slots: Sequence[KeySlot], chain_id: bytes) -> "ChainKey":
        """Return the key of a chain. Raises `WrongPassphrase`, `FormatInvalid`. Takes 0.1 s a passphrase's slot."""
        from vbrcore.secrets.keyslots import open_slots  # noqa: PLC0415

        return open_slots(key_slots, chain_id, passphrase=self.passphrase, keyfile=self.keyfile)

    def wrap(self, chain_key: "ChainKey", chain_id: bytes) -> tuple[KeySlot, ...]:
        """Return new key slots, one for each secret."""
        from vbrcore.secrets.keyslots import add_keyfile_slot, add_passphrase_slot  # noqa: PLC0415

        slots = []
        if self.passphrase is not None:
            slots.append(add_passphrase_slot(chain_key, self.passphrase, chain_id))
        if self.keyfile is not None:
            slots.append(add_keyfile_slot(chain_key, self.keyfile, chain_id))
        return tuple(slots)

    def parts(self) -> dict[str, Secret]:
        """Return it as named texts, to be sealed one by one."""
        parts = {} if self.passphrase is None else {_PASSPHRASE: self.passphrase}
        if self.keyfile is not None:
            parts[_KEYFILE] = Secret(base64.b64encode(self.keyfile.reveal()).decode())
        return parts

    @classmethod
    def of_parts(cls, parts: Mapping[str, Secret]) -> Self | None:
        """Return what `parts` made them of; None of none."""
        if not parts:
            return None
        keyfile = parts.get(_KEYFILE)
        data = None if keyfile is None else SecretBytes(base64.b64decode(keyfile.reveal()))
        return cls(parts.get(_PASSPHRASE), data)
