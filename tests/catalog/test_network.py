"""Rules for pairs of sites, and shares that together are never more than the limit."""

import random

import pytest

from vbrcore.catalog.catalog import Catalog
from vbrcore.model.errors import NotFound
from vbrcore.model.network import NetworkRule, rule_between, rule_of

RULE = rule_of("paris", "london", 1000)


def test_a_pair_of_sites_has_one_rule_in_any_order(catalog: Catalog) -> None:
    catalog.set_network_rule(rule_of("london", "paris", 5))
    catalog.set_network_rule(RULE)
    assert catalog.network_rules() == (NetworkRule("london", "paris", 1000),)
    assert rule_between(catalog.network_rules(), ("paris", "london")) == RULE
    assert rule_between(catalog.network_rules(), ("paris", "paris")) is None
    catalog.remove_network_rule(rule_of("paris", "london", 0))
    with pytest.raises(NotFound, match="london"):
        catalog.remove_network_rule(RULE)


def test_a_newcomer_waits_until_the_others_send_less(catalog: Catalog) -> None:
    assert catalog.raise_share(RULE, "a") == 1000
    assert catalog.raise_share(RULE, "b") == 0  # a still sends all of it
    assert catalog.raise_share(RULE, "a") == 500
    assert catalog.raise_share(RULE, "b") == 0  # a was not told yet
    catalog.lower_share(RULE, "a", 500)
    assert catalog.raise_share(RULE, "b") == 500
    catalog.free_share("a")
    assert catalog.raise_share(RULE, "b") == 1000
    assert catalog.raise_share(rule_of("paris", "rome", 70), "c") == 70  # another pair of sites


@pytest.mark.parametrize("seed", range(20))
def test_what_is_sent_is_never_more_than_the_limit_whoever_asks_and_when(catalog: Catalog, seed: int) -> None:
    chance = random.Random(seed)  # noqa: S311 - the same in each run
    sent: dict[str, int] = {}
    for _ in range(120):
        task = f"task {chance.randrange(6)}"
        if chance.random() < 0.2:
            sent.pop(task, None)
            catalog.free_share(task)
            continue
        share = catalog.raise_share(RULE, task)
        if chance.random() < 0.9:  # else its manager dies before it can tell the mover
            lowered = share < sent.get(task, 0)
            sent[task] = share
            if lowered:
                catalog.lower_share(RULE, task, share)
        assert sum(sent.values()) <= 1000
    for _ in range(2):
        for task in sent:
            catalog.lower_share(RULE, task, catalog.raise_share(RULE, task))
    assert sent
