"""What a user may not do on a host is said with what to do about it."""

import pytest

from vbr_kvm.findings import KvmFacts, kvm_findings

ROOT = KvmFacts(
    user="root",
    uid=0,
    gid=0,
    socket="/run/libvirt/libvirt-sock",
    socket_writable=True,
    programs=frozenset({"qemu-nbd", "qemu-img"}),
    python="python3.11",
    images_writable=True,
)


def facts(**changes: object) -> KvmFacts:
    return KvmFacts(**({name: getattr(ROOT, name) for name in ROOT.__struct_fields__} | changes))


def test_nothing_is_found_where_all_is_well() -> None:
    assert kvm_findings(ROOT) == ()
    assert kvm_findings(facts(user="vbr", uid=1000, in_group=True)) == ()


@pytest.mark.parametrize(
    ("changes", "code", "level", "words"),
    [
        ({"socket": "", "socket_writable": False}, "libvirt_missing", "error", "libvirtd"),
        ({"socket_writable": False}, "libvirt_denied", "error", "usermod -aG libvirt"),
        ({"uid": 1000, "user": "vbr"}, "libvirt_denied", "error", "usermod -aG libvirt vbr"),
        ({"programs": frozenset({"qemu-img"})}, "qemu_utils_missing", "warning", "qemu-utils"),
        ({"unreadable": "/var/lib/libvirt/images/a"}, "images_unreadable", "warning", "setfacl"),
        ({"images_writable": False}, "images_read_only", "warning", "--directory"),
        ({"python": ""}, "host_mode_missing", "note", "python3"),
    ],
)
def test_each_lack_is_named(changes: dict[str, object], code: str, level: str, words: str) -> None:
    (finding,) = kvm_findings(facts(**changes))
    assert (finding.code, finding.level) == (code, level)
    assert words in finding.hint


def test_errors_come_first() -> None:
    found = kvm_findings(facts(python="", socket="", programs=frozenset()))
    assert [finding.level for finding in found] == ["error", "warning", "note"]
