"""What is missing on a managed server, and how to mend it: pure checks over what was found there.

A check is a function of the server and its facts; whoever has another one adds it to `CHECKS`.
A server without roles runs no mover: what only movers need is not missing there.
"""

from collections.abc import Callable, Iterable, Iterator

import msgspec

from vbrcore.model.inventory import Hypervisor, Server
from vbrcore.model.serverfacts import MACHINES, Finding, ServerFacts

_LEAST_SPACE_BYTES = 1 << 30
_CLOCK_OFF_S = 60.0

Check = Callable[[Server, ServerFacts], Iterator[Finding]]


def findings(server: Server, facts: ServerFacts, hypervisors: Iterable[Hypervisor] = ()) -> tuple[Finding, ...]:
    """Run all checks, in their order; then comes what plugins found of those `hypervisors` that are tied to it."""
    found = [finding for check in CHECKS for finding in check(server, facts)]
    for one in hypervisors:
        if one.server == server.name:
            found += [_of_hypervisor(one, finding) for finding in facts.hypervisors.get(one.hypervisor_id, ())]
    return tuple(found)


def _of_hypervisor(hypervisor: Hypervisor, finding: Finding) -> Finding:
    return msgspec.structs.replace(finding, text=f"hypervisor {hypervisor.name}: {finding.text}")


def _system(server: Server, facts: ServerFacts) -> Iterator[Finding]:
    if not facts.os_is_linux or facts.machine not in MACHINES:
        yield Finding(
            "system_unsuitable",
            f"it runs {facts.os or 'an unknown system'} on {facts.machine or 'an unknown machine'}",
            f"movers run on Linux, on {' and '.join(MACHINES)}",
            level="error" if server.roles else "note",
        )


def _python(server: Server, facts: ServerFacts) -> Iterator[Finding]:
    if facts.python_fits:
        return
    found = f"Python {facts.python}" if facts.python else "no Python"
    yield Finding(
        "python_missing",
        f"{found} is there, movers need 3.11 to 3.13",
        "install it with the system's packages, e.g. 'apt install python3' or 'dnf install python3.12'; no root and no"
        " internet is needed after that",
        level="error" if server.roles else "note",
    )


def _cache(server: Server, facts: ServerFacts) -> Iterator[Finding]:
    if not server.roles:
        return
    if facts.cache_error:
        yield Finding(
            "cache_not_writable",
            f"the directory for the movers cannot be written: {facts.cache_error}",
            f"give user {facts.user} a home directory that it may write, or set XDG_CACHE_HOME for it",
        )
    elif facts.cache and facts.free_bytes < _LEAST_SPACE_BYTES:
        yield Finding(
            "little_space",
            f"{facts.free_bytes} bytes are free at {facts.cache}",
            "free some space there: movers and their index need up to 1 GiB",
            level="warning",
        )


def _ports(server: Server, facts: ServerFacts) -> Iterator[Finding]:
    if not facts.python or not server.roles:
        return
    low, high = server.ports
    if not facts.ports_free:
        yield Finding(
            "data_ports_taken",
            f"no port of {low} to {high} can be listened on",
            "end what listens there, or choose others with 'server edit NAME --ports LO-HI'",
        )
    elif facts.ports_free < server.host_budget:
        yield Finding(
            "few_data_ports",
            f"{facts.ports_free} ports of {low} to {high} are free, {server.host_budget} tasks may run at once",
            "choose a wider range with 'server edit NAME --ports LO-HI'",
            level="warning",
        )
    if facts.reach_error:
        yield Finding(
            "data_port_unreachable",
            f"a data port cannot be reached from the backup server: {facts.reach_error}",
            f"let TCP ports {low} to {high} through to it, or name the address where they are reached with 'server edit"
            " NAME --address A', or say --dials-only, so that its movers dial out",
        )


def _clock(_server: Server, facts: ServerFacts) -> Iterator[Finding]:
    if abs(facts.clock_offset_s) > _CLOCK_OFF_S:
        yield Finding(
            "clock_off",
            f"its clock is {abs(facts.clock_offset_s):.0f} s {'ahead' if facts.clock_offset_s > 0 else 'behind'}",
            "keep its clock by NTP, e.g. 'timedatectl set-ntp true'; logs are put right by that much",
            level="warning",
        )


CHECKS: tuple[Check, ...] = (_system, _python, _cache, _ports, _clock)
