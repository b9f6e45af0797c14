"""Jobs over the whole lab: each disk takes its best way, and the slow link carries what it must."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.lab.guests import HOSTS, RemoteGuest, content_of
from tests.lab.guests import IMAGES as GUEST_IMAGES
from tests.lab.scene import MIB, PROXIES, Scene

pytestmark = pytest.mark.timeout(400)

CONTROL_BYTES = 600_000  # what a session may send over the link that has no need of it: it is directed from `main`


def test_the_servers_are_listed_and_checked(scene: Scene) -> None:
    servers = {one["name"]: one for one in scene.vbr.json("server", "list")}
    assert set(servers) == {"local", *(name for name, host in scene.lab.hosts.items() if host["role"] != "share")}
    assert {name: servers[name]["site"] for name in PROXIES} == {"proxy1": "main", "proxy2": "main", "proxy3": "far"}
    assert {name for name, one in servers.items() if not one["roles"]} == {"kvm2"}
    checked = scene.vbr.json("server", "check", "proxy3")
    assert (checked["state"], checked["findings"]) == ("ok", [])
    bare = scene.vbr.json("server", "check", "kvm2", exit_code=None)
    assert "python_missing" in json.dumps(bare["findings"])


def test_disks_and_repository_of_one_site_send_nothing_over_the_link(scene: Scene) -> None:
    content = scene.machine("near", seed=1, mib=24)
    scene.job("near", "near", "repo1")
    scene.job("far", "near", "repo2")
    scene.run("far")  # which brings the movers there
    for job, proxies in (("near", {"proxy1", "proxy2", "kvm1"}), ("far", {"proxy3"})):
        scene.machine("near", seed=2, mib=24)
        content = scene.machine("near", seed={"near": 3, "far": 4}[job], mib=24)
        before = scene.linked()
        session = scene.run(job)
        task = scene.disk(session)
        assert task["server"] in proxies, task
        assert scene.linked() - before < CONTROL_BYTES
        assert task["mode"] == "file"
        assert "same site as the repository's server" in task["why"]
        assert task["totals"]["transferred_bytes"] > 10 * MIB
    scene.assert_whole("far", content)
    before = scene.linked()
    scene.job("across", "near", "repo2", "--proxy", "proxy1")
    task = scene.disk(scene.run("across"))
    assert task["server"] == "proxy1"
    assert "the only one that can" in task["why"]
    assert scene.linked() - before > task["totals"]["transferred_bytes"]


def test_a_share_is_written_through_its_gateway(scene: Scene) -> None:
    content = scene.machine("web", seed=5)
    scene.job("to-share", "web", "share")
    session = scene.run("to-share")
    assert [one["gateway"] for one in session["report"]["gateways"]] != ["local"]
    assert scene.disk(session)["why"]
    gateway = session["report"]["gateways"][0]["gateway"]
    again = scene.run("to-share")
    assert [(one["gateway"], one["reason"]) for one in again["report"]["gateways"]] == [
        (gateway, "served_the_chain_last")
    ]
    assert scene.chain("to-share", "share1")
    scene.assert_whole("to-share", content)


@pytest.fixture
def guests(scene: Scene) -> Iterator[dict[str, RemoteGuest]]:
    made = {host: RemoteGuest(scene.lab, host, f"db-on-{host}") for host in HOSTS}
    try:
        for guest in made.values():
            guest.define((8 * MIB,))
            guest.start()
            guest.write(0, MIB, guest.host.encode() * 50000)
        yield made
    finally:
        for guest in made.values():
            guest.remove()


def test_machines_of_both_hosts_are_backed_up_elsewhere_and_restored_onto_each_other(
    scene: Scene, guests: dict[str, RemoteGuest]
) -> None:
    ways = {"kvm1": ("share", "kvm1", "host"), "kvm2": ("repo2", "proxy3", "tunnel")}
    for host, (repository, server, mode) in ways.items():
        address = scene.lab.hosts[host]["address"]
        uri = f"uri=qemu+ssh://root@{address}/system"
        scene.vbr("hypervisor", "add", host, "--plugin", "kvm", "--set", uri, "--server", host)
        scene.job(host, guests[host].name, repository, hypervisor=host)
        scene.run(host)
        guests[host].write(0, 4 * MIB, b"changed" * 1000)
        before = scene.linked()
        session = scene.run(host)
        assert scene.linked() - before < CONTROL_BYTES
        task = scene.disk(session)
        assert (task["server"], task["mode"]) == (server, mode)
        assert "same site as the machine" in task["why"]
    for host, guest in guests.items():
        other = next(name for name in HOSTS if name != host)
        moved = RemoteGuest(scene.lab, other, f"{guest.name}-moved")
        try:
            words = ("--hypervisor", other, "--name", moved.name)
            scene.vbr("restore", "machine", scene.points(host)[-1], *words)
            assert content_of(scene.lab, other, f"{GUEST_IMAGES}/{moved.name}-vda.qcow2") == guest.content(0)
        finally:
            moved.remove()
        left: Any = guest.left_over()
        assert "scratch" not in left
        assert "backup" not in left
