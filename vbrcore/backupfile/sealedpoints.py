"""Points of encrypted chains: names are sealed, what stays legible is authenticated (docs/FORMAT.md section 7)."""

import hmac
import secrets
from typing import Final

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from vbrcore.backupfile.encryption import NONCE_BYTES, ChainKey, checked_chain_id
from vbrcore.backupfile.maps import MAX_DISK_BYTES
from vbrcore.model.errors import DataCorrupt
from vbrcore.model.foreign import UNDECODABLE
from vbrcore.model.point import Point, PointDisk

ROOT_MAC_BYTES: Final = 16
_MACHINE_ID_BYTES = 16
_DISK_ID_BYTES = 8


class _SealedDisk(msgspec.Struct, frozen=True):
    disk_id: str
    name: str
    change_id: str


class _Sealed(msgspec.Struct, frozen=True):
    """The JSON object in `sealed`. The last three stand in the point as well and must be the same there."""

    job_name: str
    machine_id: str
    machine: str
    warnings: tuple[str, ...]
    disks: tuple[_SealedDisk, ...]
    plugin: str
    created: float
    configuration: bytes


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(_Sealed)


def hidden_machine_id(machine_id: str, chain_key: ChainKey) -> str:
    """Return the `machine_id` of this machine's sealed points (32 hexadecimal digits): the same in all of a chain."""
    return chain_key.keyed_hash(b"vbrcore machine", machine_id.encode())[:_MACHINE_ID_BYTES].hex()


def hidden_disk_id(machine_id: str, disk_id: str, chain_key: ChainKey) -> str:
    """Return the `disk_id` of this disk in sealed points of its machine (decimal digits)."""
    machine = machine_id.encode()
    message = len(machine).to_bytes(4, "little") + machine + disk_id.encode()
    return str(int.from_bytes(chain_key.keyed_hash(b"vbrcore disk", message)[:_DISK_ID_BYTES], "little"))


def seal_point(point: Point, chain_key: ChainKey, chain_id: bytes) -> Point:
    """Return the point as it stands in a file. `sequence`, `kind` and `flags` may be set later: they are not sealed.

    Raises `ValueError` for a point that is sealed already.
    """
    if point.sealed:
        raise ValueError(f"point {point.point_id} is sealed already")
    names = _Sealed(
        job_name=point.job_name,
        machine_id=point.machine_id,
        machine=point.machine,
        warnings=point.warnings,
        disks=tuple(_SealedDisk(disk.disk_id, disk.name, disk.change_id) for disk in point.disks),
        plugin=point.plugin,
        created=point.created,
        configuration=point.configuration,
    )
    nonce = secrets.token_bytes(NONCE_BYTES)
    sealed = nonce + _cipher(chain_key).encrypt(nonce, _encoder.encode(names), _ascii_id(point))
    disks = tuple(
        PointDisk(
            disk_id=hidden_disk_id(point.machine_id, disk.disk_id, chain_key),
            name="",
            size_bytes=disk.size_bytes,
            root=disk.root,
            root_mac=_root_mac(point, number, chain_key, chain_id),
        )
        for number, disk in enumerate(point.disks)
    )
    return msgspec.structs.replace(
        point,
        job_name="",
        machine_id=hidden_machine_id(point.machine_id, chain_key),
        machine="",
        warnings=(),
        disks=disks,
        sealed=sealed,
    )


def open_point(point: Point, chain_key: ChainKey, chain_id: bytes) -> Point:
    """Return the point with its true names, without `sealed` and `root_mac`: the inverse of `seal_point`.

    Raises `DataCorrupt` unless all that is sealed or authenticated is as this chain's key left it.
    """
    verify_root_mac(point, chain_key, chain_id)
    nonce, ciphertext = point.sealed[:NONCE_BYTES], point.sealed[NONCE_BYTES:]
    try:
        # What is too short has no tag that fits; the cipher wants a whole nonce all the same.
        plain = _cipher(chain_key).decrypt(nonce.ljust(NONCE_BYTES, b"\0"), ciphertext, _ascii_id(point))
        names = _decoder.decode(plain)
    except (InvalidTag, *UNDECODABLE) as error:
        raise DataCorrupt(
            f"the names of point {point.point_id} cannot be decrypted: damaged, or another key"
        ) from error
    if (names.plugin, names.created, names.configuration) != (point.plugin, point.created, point.configuration):
        raise DataCorrupt(
            f"point {point.point_id} was changed: its plugin, time or configuration is not what was sealed"
        )
    if len(names.disks) != len(point.disks):
        raise DataCorrupt(
            f"point {point.point_id} was changed: it has {len(point.disks)} disks, not {len(names.disks)}"
        )
    disks = tuple(
        PointDisk(true.disk_id, true.name, disk.size_bytes, disk.root, true.change_id)
        for disk, true in zip(point.disks, names.disks, strict=True)
    )
    return msgspec.structs.replace(
        point,
        job_name=names.job_name,
        machine_id=names.machine_id,
        machine=names.machine,
        warnings=names.warnings,
        disks=disks,
        sealed=b"",
    )


def verify_root_mac(point: Point, chain_key: ChainKey, chain_id: bytes) -> None:
    """Raise `DataCorrupt` unless each disk's size and map root are those of this point, by this chain's key."""
    for number, disk in enumerate(point.disks):
        if not 0 <= disk.size_bytes <= MAX_DISK_BYTES:
            raise DataCorrupt(f"disk {number} of point {point.point_id} has an impossible size")
        if not hmac.compare_digest(disk.root_mac, _root_mac(point, number, chain_key, chain_id)):
            raise DataCorrupt(f"the map root of disk {number} of point {point.point_id} is not authentic")


def _root_mac(point: Point, number: int, chain_key: ChainKey, chain_id: bytes) -> bytes:
    disk = point.disks[number]
    place = number.to_bytes(4, "little") + disk.size_bytes.to_bytes(8, "little")
    message = checked_chain_id(chain_id) + _ascii_id(point) + place + disk.root
    return chain_key.keyed_hash(b"vbrcore root", message)[:ROOT_MAC_BYTES]


def _cipher(chain_key: ChainKey) -> AESGCM:
    return AESGCM(chain_key.subkey(b"vbrcore names"))


def _ascii_id(point: Point) -> bytes:
    try:
        return point.point_id.encode("ascii")
    except UnicodeEncodeError as error:
        raise DataCorrupt("a point's id is none") from error
