"""The rate that a target mover keeps to, on a clock of its own."""

import pytest

from vbrcore.mover import pace


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(pace, "time", made)
    return made


def test_bytes_come_through_at_the_rate(clock: Clock) -> None:
    let = pace.Pace(1000)
    for _ in range(11):
        let(500)
    assert clock.now == pytest.approx(105.0)


def test_what_was_not_used_is_not_made_up_for(clock: Clock) -> None:
    let = pace.Pace(1000)
    let(1000)
    clock.now += 60
    let(1000)
    let(1000)
    assert clock.now == pytest.approx(161.0)


def test_without_a_rate_nothing_waits(clock: Clock) -> None:
    let = pace.Pace(0)
    for _ in range(1000):
        let(1 << 30)
    assert clock.now == 100.0
