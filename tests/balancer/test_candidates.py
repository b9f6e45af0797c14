"""Which servers can move a disk, in which order; and which gateway serves a share."""

import msgspec

from vbrcore.balancer.candidates import (
    Proxy,
    Wishes,
    candidates,
    ranked_modes,
    server_units,
    why_taken,
    without,
)
from vbrcore.balancer.decide import Capacities, Closed, Pending, decide
from vbrcore.balancer.demand import CLASS_REGULAR, Choice, Demand, Grant, Unit
from vbrcore.balancer.feasibility import why_never
from vbrcore.balancer.gateways import Gateway, choose_gateway

NOW = 1_800_000_000.0
MODES = ("direct", "network")


def proxy(name: str, *, site: str = "", modes: tuple[str, ...] = MODES) -> Proxy:
    return Proxy(name, name, site, modes=modes)


def taken(choices: tuple[Choice, ...], *, held: dict[str, int], limits: dict[str, int], best: bool = False) -> str:
    demand = Demand("d", "s", "task", "d", NOW, CLASS_REGULAR, False, choices=choices, wait_for_best=best)
    granted = decide(Capacities(limits), held, [Pending(demand)], NOW).grants
    return f"{granted[0].server} {granted[0].mode}" if granted else ""


def limits_of(*names: str) -> dict[str, int]:
    return {f"{kind}:{name}": 2 for kind in ("proxy", "host") for name in (*names, "r")}


def test_mode_then_own_host_then_site_then_affinity() -> None:
    proxies = [
        proxy("far"),
        proxy("near", site="a"),
        proxy("wanted", site="a"),
        proxy("own"),
        proxy("direct", modes=("direct",)),
    ]
    plain = [msgspec.structs.replace(one, modes=("network",)) for one in proxies[:-1]] + [proxies[-1]]
    found = candidates(plain, Wishes(MODES, "a", own_host="own", affinity=("wanted",)), "r").choices
    assert [one.server for one in found] == ["direct", "own", "wanted", "near", "far"]
    order = limits_of(*(one.server for one in found))
    held: dict[str, int] = {}
    for one in found:
        assert taken(found, held=held, limits=order).split()[0] == one.server
        held[f"proxy:{one.server}"] = 2


def test_among_equals_the_least_loaded_by_its_share_of_free_slots() -> None:
    found = candidates([proxy("p"), proxy("q")], Wishes(MODES), "r").choices
    limits = limits_of("p", "q") | {"proxy:q": 8, "host:q": 8}
    assert taken(found, held={"proxy:p": 1, "proxy:q": 3}, limits=limits) == "q direct"
    assert taken(found, held={"proxy:p": 1, "proxy:q": 5}, limits=limits) == "p direct"


def test_a_worse_mode_is_taken_unless_the_job_waits_for_the_best() -> None:
    found = candidates([proxy("p", modes=("direct",)), proxy("q", modes=("network",))], Wishes(MODES), "r").choices
    limits = limits_of("p", "q")
    assert taken(found, held={"proxy:p": 2}, limits=limits) == "q network"
    assert taken(found, held={"proxy:p": 2}, limits=limits, best=True) == ""
    assert taken(found, held={}, limits=limits, best=True) == "p direct"
    assert taken(found, held={}, limits=limits | {"proxy:p": 0}, best=True) == "q network"


def test_a_server_that_is_away_is_passed_over_and_not_waited_for() -> None:
    found = candidates([proxy("p", modes=("direct",)), proxy("q", modes=("network",))], Wishes(MODES), "r").choices
    away = Capacities(limits_of("p", "q"), {"proxy:p": Closed("server_away", "p does not answer")})
    demand = Demand("d", "s", "task", "d", NOW, CLASS_REGULAR, False, choices=found, wait_for_best=True)
    assert [one.server for one in decide(away, {}, [Pending(demand)], NOW).grants] == ["q"]
    (wait,) = decide(away, {"proxy:q": 2}, [Pending(demand)], NOW).waits
    assert wait.reason == "no_free_proxy_slot"
    (wait,) = decide(away, {}, [Pending(msgspec.structs.replace(demand, choices=found[:1]))], NOW).waits
    assert (wait.reason, wait.detail) == ("server_away", "p does not answer")


def test_every_server_that_is_no_candidate_says_why() -> None:
    servers = [
        proxy("other"),
        msgspec.structs.replace(proxy("plain"), is_proxy=False),
        msgspec.structs.replace(proxy("empty"), slots=0),
        msgspec.structs.replace(proxy("bare"), is_fit=False),
        proxy("blind", modes=()),
        proxy("good"),
    ]
    found = candidates(servers, Wishes(MODES, only=("plain", "empty", "bare", "blind", "good")), "r")
    assert {one.server for one in found.choices} == {"good"}
    assert {one.server: one.reason for one in found.excluded} == {
        "other": "not_in_the_jobs_list",
        "plain": "no_proxy_role",
        "empty": "no_slots",
        "bare": "server_unsuitable",
        "blind": "no_transport_mode",
    }


def test_where_an_attempt_failed_is_asked_again_only_without_another_server() -> None:
    found = candidates([proxy("p"), proxy("q")], Wishes(MODES), "r")
    left = without(found, {"p"})
    assert {one.server for one in left.choices} == {"q"}
    assert [(one.server, one.reason) for one in left.excluded] == [("p", "failed_before")]
    assert without(found, {"p", "q"}) == found
    assert without(found, set()) == found


def test_what_decided_is_said_in_the_words_of_the_table() -> None:
    proxies = [proxy("near", site="a"), proxy("twin", site="a"), proxy("far", modes=("network",))]
    found = candidates(proxies, Wishes(MODES, "a"), "r").choices

    def why(server: str, mode: str) -> list[str]:
        return why_taken(found, Grant("d", server, mode)).split("; ")

    assert why("near", "direct") == [
        "best transport mode",
        "same site as the machine",
        "least loaded: free / all slots",
    ]
    assert why("far", "network") == [
        "a worse transport mode: what has direct is full or away",
        "better ones are full or away",
    ]
    alone = candidates([proxy("own")], Wishes(MODES, own_host="own", affinity=("own",)), "r").choices
    assert why_taken(alone, Grant("d", "own", "direct")).split("; ") == [
        "the only one that can",
        "best transport mode",
        "the machine's own host",
        "preferred by the repository",
    ]


def test_data_of_a_machine_that_every_server_reaches_stays_at_the_site_of_the_repository() -> None:
    proxies = [proxy("here", site="a"), proxy("there", site="b"), proxy("preferred", site="a")]
    wishes = Wishes(MODES, repository_site="b", affinity=("preferred",))
    found = candidates(proxies, wishes, "r").choices
    assert [one.server for one in found if one.mode == "direct"] == ["there", "preferred", "here"]
    assert why_taken(found, Grant("d", "there", "direct")).split("; ")[-1] == "same site as the repository's server"
    # The machine's own site comes first: there its data is read over the network once.
    found = candidates(proxies, msgspec.structs.replace(wishes, site="a"), "r").choices
    assert [one.server for one in found if one.mode == "direct"] == ["preferred", "here", "there"]


def test_modes_that_servers_offer_make_one_order() -> None:
    assert ranked_modes([("tunnel",), ("host", "tunnel")]) == ("host", "tunnel")
    assert ranked_modes([("b", "c"), ("a", "c"), ("a", "b"), ()]) == ("a", "b", "c")
    assert set(ranked_modes([("a", "b"), ("b", "a")])) == {"a", "b"}
    assert ranked_modes([]) == ()


def test_a_server_that_is_both_costs_one_unit_of_its_budget() -> None:
    assert server_units("a", ("a",)) == (Unit("proxy:a"), Unit("host:a"))
    assert server_units("a", ("b", "a")) == (Unit("proxy:a"), Unit("host:a"), Unit("host:b"))


def test_outside_of_a_window_no_machine_begins_and_those_that_have_begun_go_on() -> None:
    shut = Capacities(limits_of("p"), {"window:j": Closed("outside_window", "closed until 22:00")})
    choices = candidates([proxy("p")], Wishes(MODES), "r").choices
    first = Demand("a", "s", "task", "a", NOW, CLASS_REGULAR, False, choices=choices, gates=("window:j",))
    further = Demand("b", "s", "task", "b", NOW, 700, False, choices=choices)
    decisions = decide(shut, {}, [Pending(first), Pending(further)], NOW)
    assert [one.demand_id for one in decisions.grants] == ["b"]
    assert [one.reason for one in decisions.waits] == ["outside_window"]


def test_what_can_never_fit_says_what_is_short() -> None:
    labels = {"proxy:p": "proxy p"}
    capacities = Capacities({"proxy:p": 1, "repository:r": 1, "host:p": 1}, {}, labels)
    twice = Choice("p", "", (Unit("proxy:p"), Unit("proxy:p")))
    once = Choice("p", "", (Unit("proxy:p"),))
    demand = Demand("d", "s", "task", "d", NOW, CLASS_REGULAR, False, (Unit("repository:r"),), choices=(twice, once))
    assert why_never(capacities, demand) == ""
    hopeless = msgspec.structs.replace(demand, choices=(twice,))
    assert why_never(capacities, hopeless) == "proxy p has 1 units, 2 are needed at once"
    assert "repository:r" in why_never(capacities, msgspec.structs.replace(demand, units=(Unit("repository:r"),) * 2))


# --- gateways ---------------------------------------------------------------------------------------


def test_same_site_first_then_connect_time_then_load() -> None:
    known = [
        Gateway("a", "there", 0.001, slots=4),
        Gateway("b", "here", 0.200, slots=4),
        Gateway("c", "here", 0.010, slots=4, used=2),
        Gateway("d", "here", 0.011, slots=4, used=1),
        Gateway("e", "here", None, slots=4),
    ]
    choice = choose_gateway(known, share_site="here")
    assert (choice.gateway, choice.reason) == ("d", "least_loaded")
    assert {one.gateway: one.reason for one in choice.others} == {
        "a": "other_site",
        "b": "slower",
        "c": "more_loaded",
        "e": "slower",
    }
    assert choose_gateway(known[:2], share_site="here").reason == "same_site"
    assert choose_gateway(known[:1], share_site="here").reason == "only_gateway"


def test_chains_spread_over_equal_gateways() -> None:
    used = dict.fromkeys("abc", 0)
    for _ in range(9):
        choice = choose_gateway(Gateway(name, slots=4, used=count) for name, count in used.items())
        used[choice.gateway] += 1
    assert set(used.values()) == {3}


def test_a_chain_keeps_its_gateway_and_a_dead_one_is_replaced() -> None:
    known = [Gateway("a"), Gateway("b", slots=4, used=3)]
    assert choose_gateway(known, last="b").gateway == "b"
    assert choose_gateway(known, last="b").reason == "served_the_chain_last"
    dead = [Gateway("a"), Gateway("b", away="b does not answer")]
    assert choose_gateway(dead, last="b").gateway == "a"


def test_an_explicit_list_is_all_there_is() -> None:
    known = [Gateway("a"), Gateway("b", away="b does not answer"), Gateway("c", used=1)]
    assert choose_gateway(known, explicit=("b", "c")).reason == "no_free_gateway_slot"
    assert choose_gateway(known, explicit=("b",)).reason == "gateway_away"
    assert choose_gateway(known, explicit=("a", "b")).gateway == "a"
    assert choose_gateway([]).reason == "no_gateway"
