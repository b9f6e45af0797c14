"""Which chain it is and what opens it: public, and enough for whoever knows its passphrase."""

import msgspec

from vbrcore.backupfile.contents import KeySlot


class ChainIdentity(msgspec.Struct, frozen=True):
    """`chain_id` is 16 bytes. `is_new`: it has no files yet, so an encrypted one has no `key_slots` either."""

    chain_id: bytes = b""
    encrypted: bool = False
    is_new: bool = False
    key_slots: tuple[KeySlot, ...] = ()
