"""What is asked and answered about pairs of sites. JSON keys are these field names; they stay."""

import msgspec


class NetworkRuleSet(msgspec.Struct, frozen=True):
    """What all tasks together may send between two sites, in bytes per second."""

    site_a: str
    site_b: str
    rate_limit_bytes_s: int


class NetworkRuleRemove(msgspec.Struct, frozen=True):
    site_a: str
    site_b: str


class NetworkRuleView(msgspec.Struct, frozen=True):
    site_a: str
    site_b: str
    rate_limit_bytes_s: int
