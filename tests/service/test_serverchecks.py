"""What is missing on a server follows from what was found there."""

import msgspec
import pytest

from vbrcore.model.inventory import Hypervisor, Server, SshAccess
from vbrcore.model.serverfacts import Finding, ServerFacts
from vbrcore.service.serverchecks import findings

SERVER = Server("s", "far", ("proxy",), 4, 4, ssh=SshAccess("far", "backup", "ssh-ed25519 AAAA"))
GOOD = ServerFacts(
    os="Debian GNU/Linux 12 (Linux 6.1)",
    machine="x86_64",
    user="backup",
    python="3.11.2",
    cache="/home/backup/.cache/vbrcore",
    free_bytes=1 << 40,
    cores=4,
    ports_free=100,
    reached_port=46200,
)


def test_where_all_is_well_nothing_is_found() -> None:
    assert findings(SERVER, GOOD) == ()
    assert GOOD.can_run_movers


@pytest.mark.parametrize(
    ("changes", "code", "level", "word", "runs"),
    [
        ({"os": "FreeBSD 14"}, "system_unsuitable", "error", "FreeBSD", False),
        ({"machine": "riscv64"}, "system_unsuitable", "error", "riscv64", False),
        ({"python": "3.9.2"}, "python_missing", "error", "3.9.2", False),
        ({"python": ""}, "python_missing", "error", "no Python", False),
        ({"cache_error": "read-only"}, "cache_not_writable", "error", "read-only", False),
        ({"free_bytes": 10}, "little_space", "warning", "10 bytes", True),
        ({"ports_free": 0}, "data_ports_taken", "error", "46200", True),
        ({"ports_free": 3}, "few_data_ports", "warning", "3 ports", True),
        ({"reach_error": "no answer"}, "data_port_unreachable", "error", "no answer", True),
        ({"clock_offset_s": -90.0}, "clock_off", "warning", "90 s behind", True),
    ],
)
def test_what_is_missing_is_named_with_a_way_to_mend_it(
    changes: dict[str, object], code: str, level: str, word: str, runs: bool
) -> None:
    facts = msgspec.structs.replace(GOOD, **changes)
    (found,) = findings(SERVER, facts)
    assert (found.code, found.level) == (code, level)
    assert word in found.text
    assert found.hint
    assert facts.can_run_movers is runs


def test_a_host_without_roles_needs_no_python() -> None:
    host = msgspec.structs.replace(SERVER, roles=())
    (found,) = findings(host, msgspec.structs.replace(GOOD, python=""))
    assert found.level == "note"


@pytest.mark.parametrize(
    "changes", [{"cache_error": "read-only"}, {"free_bytes": 10}, {"ports_free": 0}, {"reach_error": "no answer"}]
)
def test_a_host_without_roles_lacks_nothing_that_only_movers_need(changes: dict[str, object]) -> None:
    facts = msgspec.structs.replace(GOOD, **changes)
    assert findings(SERVER, facts)
    assert findings(msgspec.structs.replace(SERVER, roles=()), facts) == ()


def test_what_plugins_found_is_said_of_the_hypervisors_that_are_still_tied() -> None:
    denied = Finding("libvirt_denied", "user vbr may not", "usermod")
    facts = msgspec.structs.replace(GOOD, hypervisors={"h1": (denied,), "h2": (denied,), "gone": (denied,)})
    tied = Hypervisor("h1", "vms", "kvm", {}, server="far")
    elsewhere = Hypervisor("h2", "others", "kvm", {}, server="near")
    (found,) = findings(SERVER, facts, (tied, elsewhere))
    assert found == Finding("libvirt_denied", "hypervisor vms: user vbr may not", "usermod")


@pytest.mark.parametrize(
    ("version", "fits"),
    [
        ("3.10.1", False),
        ("3.11.0", True),
        ("3.13.1", True),
        ("3.14.0", False),
        ("", False),
        ("x.y", False),
        ("4", False),
    ],
)
def test_versions_that_movers_run_on(version: str, fits: bool) -> None:
    assert ServerFacts(python=version).python_fits is fits
