"""What takes nothing new: servers that are away, and jobs outside of their windows."""

from vbrcore.balancer.room import Capacities
from vbrcore.model.inventory import Server
from vbrcore.model.job import Job, Schedule, Window
from vbrcore.model.serverfacts import ServerState
from vbrcore.service.balancing import away, shut

NOON = 1_800_014_400.0  # 2027-01-15 12:00 UTC
FAR = Server("f", "far", ("proxy",), 2, 2)
NEAR = Server("n", "near", ("proxy",), 2, 2)


def test_a_server_that_is_away_takes_nothing_new_in_any_role() -> None:
    states = {"f": ServerState("f", away="no route to host"), "n": ServerState("n")}
    closed = away((FAR, NEAR), states)
    assert closed.keys() == {"proxy:f", "host:f"}
    assert {why.reason for why in closed.values()} == {"server_away"}
    assert "no route to host" in closed["proxy:f"].detail
    assert away((NEAR,), {}) == {}


def test_outside_of_its_window_the_gate_of_a_job_is_closed_until_it_opens() -> None:
    def job(begin: str, end: str) -> Job:
        return Job("j", "nightly", "h", "r", ("*",), schedule=Schedule(window=Window(begin, end, "UTC")))

    closed = Capacities({}, shut([job("20:00", "06:00")], NOON)).closed["window:j"]
    assert (closed.reason, closed.until) == ("outside_window", NOON + 8 * 3600)
    assert "20:00 to 06:00" in closed.detail
    assert shut([job("10:00", "14:00")], NOON) == {}
