"""`server check` of libvirt hosts: what the user of the login may not do there, and what to do about it."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.lab.guests import MIB, RemoteGuest


@pytest.fixture
def guest(lab: Any) -> Iterator[RemoteGuest]:
    """A guest that is off, whose image only root and QEMU can read."""
    made = RemoteGuest(lab, "kvm1", "checked")
    made.define((MIB,))
    lab.exec("kvm1", "chmod", "600", made.image("vda"))
    try:
        yield made
    finally:
        made.remove()


@pytest.fixture
def members_only(lab: Any) -> Iterator[None]:
    """Have libvirtd go by the group of its socket: the lab has no polkit."""
    kept, changed = "/etc/libvirt/libvirtd.conf.kept", "/etc/libvirt/libvirtd.conf"
    lines = 'unix_sock_group = "libvirt"\nunix_sock_rw_perms = "0770"\nauth_unix_rw = "none"\n'
    lab.exec("kvm1", "cp", changed, kept)
    lab.exec("kvm1", "sh", "-c", 'printf %s "$1" >>"$2"', "sh", lines, changed)
    lab.kill("kvm1")
    lab.mend("kvm1")
    yield
    lab.exec("kvm1", "mv", kept, changed)
    lab.kill("kvm1")
    lab.mend("kvm1")


def tie(vbr: Any, lab: Any, host: str, user: str, *roles: str) -> None:
    address = f"{user}@{lab.hosts[host]['address']}"
    vbr("server", "add", host, "--ssh", address, "--identity", lab.identity, "--accept-host-key", *roles)
    vbr(
        "hypervisor",
        "add",
        f"vms-{host}",
        "--plugin",
        "kvm",
        "--set",
        f"uri=qemu+ssh://{address}/system",
        "--server",
        host,
    )


def check(vbr: Any, host: str, exit_code: int) -> dict[str, dict[str, str]]:
    """Return what is found of the hypervisor, by code."""
    found = vbr.json("server", "check", host, exit_code=exit_code)["findings"]
    assert vbr.json("server", "show", host)["findings"] == found
    return {one["code"]: one for one in found if one["text"].startswith(f"hypervisor vms-{host}: ")}


def test_root_may_do_everything_also_on_a_host_without_python(lab: Any, vbr: Any, guest: RemoteGuest) -> None:
    tie(vbr, lab, "kvm1", "root", "--role", "proxy", "--slots", "2")
    assert guest.name in guest.virsh("list", "--all", "--name")
    assert check(vbr, "kvm1", 0) == {}
    tie(vbr, lab, "kvm2", "root")  # no Python there, and no role: disks are read through the tunnel
    (found,) = check(vbr, "kvm2", 0).values()
    assert (found["code"], found["level"]) == ("host_mode_missing", "note")
    assert "tunnel" in found["text"]
    assert all(one["level"] == "note" for one in vbr.json("server", "show", "kvm2")["findings"])
    table = vbr("server", "check", "kvm2").stdout
    assert f"note: {found['text']} (host_mode_missing)\n  {found['hint']}\n" in table


def test_who_may_not_use_libvirt_is_told_of_the_group(lab: Any, vbr: Any) -> None:
    tie(vbr, lab, "kvm1", lab.user, "--role", "proxy", "--slots", "2")
    found = check(vbr, "kvm1", 20)
    assert found["libvirt_denied"]["level"] == "error"
    assert "/run/libvirt/libvirt-sock" in found["libvirt_denied"]["text"]
    assert found["libvirt_denied"]["hint"].endswith(f"usermod -aG libvirt {lab.user}")
    assert found["images_read_only"]["level"] == "warning"


@pytest.mark.usefixtures("members_only")
def test_a_member_of_the_group_is_told_of_the_images(lab: Any, vbr: Any, guest: RemoteGuest) -> None:
    lab.exec("kvm1", "usermod", "-aG", "libvirt", lab.user)
    try:
        tie(vbr, lab, "kvm1", lab.user, "--role", "proxy", "--slots", "2")
        found = check(vbr, "kvm1", 0)
        assert found.keys() == {"images_unreadable", "images_read_only"}
        assert found["images_unreadable"]["level"] == "warning"
        assert guest.image("vda") in found["images_unreadable"]["text"]
        assert f"setfacl -m u:{lab.user}:r" in found["images_unreadable"]["hint"]
        lab.exec("kvm1", "chmod", "644", guest.image("vda"))
        assert check(vbr, "kvm1", 0).keys() == {"images_read_only"}
    finally:
        lab.exec("kvm1", "gpasswd", "-d", lab.user, "libvirt")
    assert check(vbr, "kvm1", 20)["libvirt_denied"]["hint"].endswith(f"usermod -aG libvirt {lab.user}")


def test_a_libvirt_that_is_gone_is_found_and_forgotten_with_its_hypervisor(lab: Any, vbr: Any) -> None:
    tie(vbr, lab, "kvm1", "root")
    socket = "/run/libvirt/libvirt-sock"
    lab.exec("kvm1", "mv", socket, f"{socket}-away")
    try:
        assert check(vbr, "kvm1", 20)["libvirt_missing"]["hint"]
    finally:
        lab.exec("kvm1", "mv", f"{socket}-away", socket)
    vbr("hypervisor", "remove", "vms-kvm1")
    assert vbr.json("server", "show", "kvm1")["findings"] == []
