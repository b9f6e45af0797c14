"""When what waits will start, and the explanation of where it stands."""

from vbrcore.balancer.decide import Capacities, Closed
from vbrcore.balancer.demand import CLASS_REGULAR, CLASS_RESTORE, Choice, Demand, Pending, Unit
from vbrcore.balancer.estimate import Running, estimate
from vbrcore.balancer.explain import explain
from vbrcore.balancer.rank import expected_s, session_class

NOW = 1_800_000_000.0
LIMITS = {"proxy:p": 1, "proxy:q": 1, "repository:r": 2}
P, Q = (Choice(name, "network", (Unit(f"proxy:{name}"),)) for name in "pq")


def pending(
    name: str,
    *choices: Choice,
    length_s: float = 100.0,
    class_rank: int = CLASS_REGULAR,
    passed: float | None = None,
    machine: str = "",
    gates: tuple[str, ...] = (),
    wait_for_best: bool = False,
) -> Pending:
    demand = Demand(
        demand_id=name,
        session_id="s",
        level="task",
        scope=name,
        created=NOW,
        class_rank=class_rank,
        manual=False,
        units=(Unit("repository:r"),),
        machine_units=(Unit(f"machine:{machine}"),) if machine else (),
        choices=choices,
        expected_s=length_s,
        gates=gates,
        wait_for_best=wait_for_best,
    )
    return Pending(demand, passed)


def test_what_waits_starts_when_what_runs_and_comes_before_it_is_done() -> None:
    running = [Running(("proxy:p", "repository:r"), NOW + 30), Running(("proxy:q", "repository:r"), NOW + 50)]
    waiting = [pending("long", P, Q, length_s=500), pending("short", P, Q), pending("last", P, Q, length_s=10)]
    assert estimate(Capacities(LIMITS), running, waiting, NOW) == {"long": 30.0, "short": 50.0, "last": 150.0}


def test_what_is_late_is_expected_back_now() -> None:
    running = [Running(("proxy:p", "repository:r"), NOW - 300)]
    assert estimate(Capacities(LIMITS), running, [pending("a", P)], NOW) == {"a": 0.0}


def test_nobody_can_tell_when_what_is_closed_opens_unless_it_says_so() -> None:
    for until, starts in ((None, {}), (NOW + 3600, {"a": 3600.0})):
        shut = Capacities(LIMITS, {"window:j": Closed("outside_window", "", until=until)})
        assert estimate(shut, [], [pending("a", P, gates=("window:j",))], NOW) == starts


def test_an_explanation_names_what_stands_in_the_way_at_each_server() -> None:
    shut = Capacities(LIMITS, {"proxy:q": Closed("server_away", "q does not answer")}, {"proxy:p": "proxy P"})
    before = pending("before", P, class_rank=CLASS_RESTORE, passed=NOW - 700)
    (found,) = explain(shut, {"proxy:p": 1}, [pending("a", P, Q), before], {"a"}, NOW)
    assert (found.reason, found.place, found.of, found.ahead) == ("no_free_proxy_slot", 2, 2, ("before",))
    assert (found.rank.rank, found.rank.class_rank, found.rank.start, found.rank.ageing) == (330, 300, 30, 0)
    assert [(one.server, one.reason) for one in found.candidates] == [("p", "no_free_proxy_slot"), ("q", "server_away")]
    (use,) = found.candidates[0].resources
    assert (use.label, use.needs, use.used, use.limit, use.lacks) == ("proxy P", 1, 1, 1, True)
    (repository,) = found.resources
    assert (repository.resource, repository.kept, repository.lacks) == ("repository:r", 1, False)


def test_an_explanation_tells_what_is_kept_for_whom() -> None:
    wide = pending("wide", Choice("p", "", (Unit("proxy:p"), Unit("proxy:q"))), class_rank=400, passed=NOW - 600)
    both = explain(Capacities(LIMITS), {"proxy:p": 1}, [wide, pending("a", Q)], {"wide", "a"}, NOW)
    by_id = {one.demand_id: one for one in both}
    assert set(by_id["wide"].kept) == {"repository:r", "proxy:p", "proxy:q"}
    assert by_id["a"].reason == "reserved_for"


def test_an_explanation_of_what_could_start_says_so() -> None:
    (found,) = explain(Capacities(LIMITS), {}, [pending("a", P)], {"a"}, NOW)
    assert (found.reason, found.place) == ("starts_now", 0)


def test_waiting_for_the_best_mode_is_a_reason_not_to_be_elsewhere() -> None:
    best = Choice("p", "direct", (Unit("proxy:p"),))
    waiting = pending("a", best, Q, wait_for_best=True)
    (found,) = explain(Capacities(LIMITS), {"proxy:p": 1}, [waiting], {"a"}, NOW)
    assert [one.reason for one in found.candidates] == ["no_free_proxy_slot", "waits_for_best_mode"]


def test_a_machine_in_use_stands_in_the_way_of_its_own_disks_only() -> None:
    two = [pending("a", P, machine="m"), pending("b", P, machine="n")]
    (found,) = explain(Capacities(LIMITS), {"machine:m": 1, "proxy:p": 1}, two, {"a"}, NOW)
    assert found.reason == "machine_in_use"
    assert [use.resource for use in found.resources if use.lacks] == ["machine:m"]


def test_expected_times_and_classes() -> None:
    assert expected_s(pending("a", length_s=7).demand) == 7
    assert expected_s(Demand("a", "s", "task", "a", NOW, 300, False, expected_bytes=10**9)) == 15
    classes = {
        ("restore", False, False): 800,
        ("restore", True, False): 800,
        ("cleanup", True, True): 600,
        ("backup", False, True): 500,
        ("backup", True, True): 500,
        ("backup", True, False): 400,
        ("health", True, False): 400,
        ("backup", False, False): 300,
        ("upkeep", False, False): 300,
        ("copy", False, False): 200,
        ("copy", True, False): 400,
        ("archive", False, False): 100,
    }
    for (kind, high, quick), expected in classes.items():
        assert session_class(kind, high=high, quick=quick) == expected, kind
