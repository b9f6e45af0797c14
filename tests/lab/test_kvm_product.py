"""The product over two libvirt hosts: each disk's mode is chosen, each machine restored onto the other host."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.lab.guests import HOSTS, IMAGES, MIB, RemoteGuest, content_of

MODES = {"kvm1": "host", "kvm2": "tunnel"}  # kvm2 has no Python: no mover can run there


@pytest.fixture
def guests(lab: Any) -> Iterator[dict[str, RemoteGuest]]:
    made = {host: RemoteGuest(lab, host, f"web-on-{host}") for host in HOSTS}
    try:
        for guest in made.values():
            guest.define((8 * MIB,))
            guest.start()
            guest.write(0, MIB, guest.host.encode() * 50000)
        yield made
    finally:
        for guest in made.values():
            guest.remove()


@pytest.mark.timeout(600)
def test_machines_of_two_hosts_are_backed_up_and_restored_onto_each_other(
    lab: Any, vbr: Any, guests: dict[str, RemoteGuest]
) -> None:
    for host, guest in guests.items():
        address = f"root@{lab.hosts[host]['address']}"
        roles = ["--role", "proxy", "--slots", "2"] if lab.hosts[host]["python"] else []
        vbr("server", "add", host, "--ssh", address, "--identity", lab.identity, "--accept-host-key", *roles)
        vbr("hypervisor", "add", host, "--plugin", "kvm", "--set", f"uri=qemu+ssh://{address}/system", "--server", host)
        vbr("job", "create", host, "--hypervisor", host, "--machine", guest.name, "--repository", "default")
    refused = vbr("hypervisor", "add", "x", "--plugin", "kvm", "--set", "uri=qemu+ssh://root@h/system", exit_code=None)
    assert refused.returncode
    assert "--server" in refused.stderr
    for host, guest in guests.items():
        full = vbr.json("job", "run", host)
        assert full["result"] == "success"
        guest.write(0, 4 * MIB, b"changed" * 1000)
        increment = vbr.json("job", "run", host)
        assert increment["result"] == "success"
        assert increment["read_bytes"] < full["read_bytes"] + MIB
        session = vbr.json("session", "show", increment["session_id"])
        ways = {task["disk"]: task["mode"] for task in session["tasks"] if task["disk"] != "configuration"}
        assert ways == {"vda": MODES[host]}
        assert all(task["why"] for task in session["tasks"] if task["disk"] == "vda")
    catalog = (vbr.home / "catalog.db").read_bytes()
    assert b"PRIVATE KEY" not in catalog
    for host, guest in guests.items():
        other = next(name for name in HOSTS if name != host)
        point = [one["point_id"] for one in vbr.json("point", "list") if one["job"] == host][-1]
        name = f"{guest.name}-moved"
        moved = RemoteGuest(lab, other, name)
        try:
            vbr("restore", "machine", point, "--hypervisor", other, "--name", name)
            assert content_of(lab, other, f"{IMAGES}/{name}-vda.qcow2") == guest.content(0)
            assert name in moved.virsh("list", "--all", "--name")
        finally:
            moved.remove()
        left = json.dumps(guest.left_over())
        assert "scratch" not in left
        assert "backup" not in left
