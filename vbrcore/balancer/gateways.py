"""Which gateway serves a chain on a share for a session."""

import math
from collections.abc import Iterable

import msgspec

# Connect times closer than this are equal: there the load decides, so that chains spread.
_EQUAL_CONNECT_RATIO = 2.0
_FASTEST_CONNECT_S = 0.001


class Gateway(msgspec.Struct, frozen=True):
    """A server that can reach the share. `connect_s`: measured, None: it never was; `used` of `slots` are taken.

    `away`: why it cannot be used now ("": it can).
    """

    name: str
    site: str = ""
    connect_s: float | None = None
    slots: int = 1
    used: int = 0
    away: str = ""


class NotTaken(msgspec.Struct, frozen=True):
    """`reason`: `not_in_the_list`, `gateway_away`, `no_free_gateway_slot`, `other_site`, `slower`, `more_loaded`,
    `not_the_last`.
    """

    gateway: str
    reason: str
    detail: str


class GatewayChoice(msgspec.Struct, frozen=True):
    """`gateway` "": none can be had now, `reason` says why; else `reason` is why this one.

    `only_gateway`, `served_the_chain_last`, `same_site`, `fastest`, `least_loaded`; without one: `gateway_away`,
    `no_free_gateway_slot`, `no_gateway`.
    """

    gateway: str
    reason: str
    others: tuple[NotTaken, ...]


def choose_gateway(
    gateways: Iterable[Gateway], *, share_site: str = "", explicit: tuple[str, ...] = (), last: str = ""
) -> GatewayChoice:
    """Take the chain's last gateway, whose index is warm; else same site, then connect time, then load.

    `explicit`: only these (empty: automatic, any). One that is away is replaced by the next best.
    """
    known = sorted(gateways, key=lambda one: one.name)
    others = [
        NotTaken(one.name, "not_in_the_list", "the repository names other gateways")
        for one in known
        if explicit and one.name not in explicit
    ]
    listed = [one for one in known if not explicit or one.name in explicit]
    others += [NotTaken(one.name, "gateway_away", one.away) for one in listed if one.away]
    there = [one for one in listed if not one.away]
    full = [one for one in there if one.used >= one.slots]
    others += [NotTaken(one.name, "no_free_gateway_slot", f"{one.used} of {one.slots} slots are taken") for one in full]
    free = [one for one in there if one.used < one.slots]
    if not free:
        reason = "no_free_gateway_slot" if full else "gateway_away" if listed else "no_gateway"
        return GatewayChoice("", reason, tuple(others))
    best = next((one for one in free if one.name == last), None) or min(free, key=lambda one: _key(one, share_site))
    rest = [one for one in free if one is not best]
    passed_over = [_passed_over(one, best, share_site, last) for one in rest]
    return GatewayChoice(best.name, _reason(best, passed_over, last), (*others, *passed_over))


def _key(gateway: Gateway, share_site: str) -> tuple[bool, float, float, str]:
    other_site = bool(share_site) and gateway.site != share_site
    return other_site, _speed(gateway), gateway.used / gateway.slots, gateway.name


def _speed(gateway: Gateway) -> float:
    """Return the class of the connect time: one more for each doubling; what was never measured comes last."""
    if gateway.connect_s is None:
        return math.inf
    return round(math.log(max(gateway.connect_s, _FASTEST_CONNECT_S) / _FASTEST_CONNECT_S, _EQUAL_CONNECT_RATIO))


def _passed_over(gateway: Gateway, best: Gateway, share_site: str, last: str) -> NotTaken:
    if best.name == last:
        return NotTaken(gateway.name, "not_the_last", f"{last} served the chain last and has its index at hand")
    theirs, ours = _key(gateway, share_site), _key(best, share_site)
    if theirs[0] != ours[0]:
        return NotTaken(gateway.name, "other_site", f"it is at {gateway.site or 'no site'}, not at {share_site}")
    if theirs[1] != ours[1]:
        took = "was not measured" if gateway.connect_s is None else f"takes {gateway.connect_s * 1000:.0f} ms"
        return NotTaken(gateway.name, "slower", f"connecting from there {took}")
    return NotTaken(gateway.name, "more_loaded", f"{gateway.used} of {gateway.slots} slots are taken")


def _reason(best: Gateway, passed_over: list[NotTaken], last: str) -> str:
    """Name what decided against the one that came nearest."""
    if best.name == last:
        return "served_the_chain_last"
    decided = {one.reason for one in passed_over}
    for reason, word in (("more_loaded", "least_loaded"), ("slower", "fastest"), ("other_site", "same_site")):
        if reason in decided:
            return word
    return "only_gateway"
