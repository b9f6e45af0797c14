"""The hosts of the lab are what the tests that use it believe: distinct, reached by their pinned keys only."""

import asyncio
from typing import Any

import asyncssh
import pytest
import smbclient  # type: ignore[import-untyped]


async def outputs(lab: Any, command: str, user: str = "root", **options: Any) -> dict[str, str]:
    found = {}
    for name in lab.hosts:
        async with lab.ssh(name, user, **options) as connection:
            found[name] = str((await connection.run(command)).stdout).strip()
    return found


def test_every_host_is_reached_with_its_pinned_key(lab: Any) -> None:
    assert asyncio.run(outputs(lab, "hostname")) == {name: name for name in lab.hosts}


def test_the_bare_account_logs_in_by_password(lab: Any) -> None:
    users = asyncio.run(outputs(lab, "id -un", lab.user, password=lab.password, client_keys=None))
    assert set(users.values()) == {lab.user}


def test_another_host_key_is_refused(lab: Any) -> None:
    async def connect() -> None:
        other = asyncssh.import_public_key(lab.hosts["proxy2"]["host_key"])
        async with lab.ssh("proxy1", known_hosts=([other], [], [])):
            pass

    with pytest.raises(asyncssh.HostKeyNotVerifiable):
        asyncio.run(connect())


def test_python_is_where_it_should_be_and_the_product_nowhere(lab: Any) -> None:
    python = asyncio.run(outputs(lab, "command -v python3 python"))
    assert {name for name, path in python.items() if path} == {n for n, host in lab.hosts.items() if host["python"]}
    assert sum(not path for path in python.values()) == 1
    products = asyncio.run(outputs(lab, "python3 -c 'import vbrcore' 2>&1; ls -A ~"))
    assert not [text for text in products.values() if not ("No module" in text or "not found" in text)]


def test_the_libvirt_hosts_are_distinct(lab: Any) -> None:
    hosts = [name for name, host in lab.hosts.items() if host["role"] == "kvm"]
    assert len(hosts) == 2
    xml = "/root/domain.xml"
    domain = "<domain type='qemu'><name>only-here</name><memory>1024</memory><os><type>hvm</type></os></domain>"
    lab.files(hosts[0], xml).write_text(domain, "utf-8")
    lab.exec(hosts[0], "virsh", "-c", "qemu:///system", "define", xml)
    names = [lab.exec(host, "virsh", "-c", "qemu:///system", "list", "--all", "--name").strip() for host in hosts]
    lab.exec(hosts[0], "virsh", "-c", "qemu:///system", "undefine", "only-here")
    assert names == ["only-here", ""]


def test_a_cut_and_a_killed_host_are_mended(lab: Any) -> None:
    async def hostname(name: str) -> str:
        async with lab.ssh(name, connect_timeout=2) as connection:
            return str((await connection.run("hostname")).stdout).strip()

    lab.cut("proxy3")
    lab.kill("kvm2")
    assert not lab.status()["hosts"]["proxy3"]["connected"]
    assert not lab.status()["hosts"]["kvm2"]["processes"]
    for name in ("proxy3", "kvm2"):
        with pytest.raises((OSError, asyncssh.Error, TimeoutError)):
            asyncio.run(hostname(name))
    for name in ("proxy3", "kvm2"):
        lab.mend(name)
        assert asyncio.run(hostname(name)) == name


def test_the_share_takes_files_of_its_user(lab: Any) -> None:
    host = lab.share.split("/")[2]
    assert host == lab.hosts["share1"]["address"]
    smbclient.register_session(host, username=lab.user, password=lab.password)
    path = lab.share.replace("/", "\\") + "\\greeting"
    with smbclient.open_file(path, mode="wb") as file:
        file.write(b"hello")
    assert lab.files("share1", "/srv/backups/greeting").read_bytes() == b"hello"
    smbclient.remove(path)
    smbclient.reset_connection_cache()


def test_up_again_changes_nothing(lab: Any) -> None:
    before = lab.status()
    assert lab._json("up")["hosts"] == before["hosts"]
