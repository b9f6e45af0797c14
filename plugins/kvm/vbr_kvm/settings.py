"""What `hypervisor add --plugin kvm --set ...` accepts."""

import os

import msgspec


class KvmSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`scratch_directory` holds what the guest overwrites during a backup ("": see docs/kvm.md).

    A backup is ended when its file system has less than `scratch_reserve_bytes` free (None: 10 %, at most 1 GiB).
    """

    uri: str = "qemu:///system"
    scratch_directory: str = ""
    scratch_reserve_bytes: int | None = None


def is_users_own(uri: str) -> bool:
    """Tell whether a libvirt of one user is meant. For root `qemu:///session` is the system's as well."""
    return uri == "qemu:///session" and os.getuid() != 0
