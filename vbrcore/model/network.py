"""What may travel between two sites."""

from collections.abc import Iterable

import msgspec


class Sites(msgspec.Struct, frozen=True):
    """A pair of sites, in any order."""

    site_a: str
    site_b: str


class NetworkRule(msgspec.Struct, frozen=True):
    """`rate_limit_bytes_s`: what all tasks together may send between servers of these two sites, both ways.

    The sites are in the order of their names; they may be the same one: then it is between servers of that site.
    """

    site_a: str
    site_b: str
    rate_limit_bytes_s: int


def rule_of(site_a: str, site_b: str, rate_limit_bytes_s: int) -> NetworkRule:
    """Return the rule of a pair of sites, in whichever order they are given."""
    return NetworkRule(min(site_a, site_b), max(site_a, site_b), rate_limit_bytes_s)


def rule_between(rules: Iterable[NetworkRule], sites: tuple[str, str]) -> NetworkRule | None:
    """Return the rule for data from one site to the other, or None."""
    pair = tuple(sorted(sites))
    return next((rule for rule in rules if (rule.site_a, rule.site_b) == pair), None)
