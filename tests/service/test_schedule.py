from datetime import UTC, datetime

import pytest

from vbrcore.model.errors import InvalidValue
from vbrcore.model.job import Schedule
from vbrcore.service.schedule import check, first_run, following_run

BERLIN = Schedule("daily", "02:30", 0, "Europe/Berlin")


def at(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


def test_daily_follows_the_zone_and_its_changes() -> None:
    assert first_run(BERLIN, at("2026-01-10T12:00")) == at("2026-01-11T01:30")
    assert first_run(BERLIN, at("2026-07-10T12:00")) == at("2026-07-11T00:30")
    assert first_run(BERLIN, at("2026-01-11T01:30")) == at("2026-01-12T01:30")
    # 02:30 does not exist on 29 March, and is there twice on 25 October: once each.
    assert first_run(BERLIN, at("2026-03-28T12:00")) == at("2026-03-29T01:30")
    assert first_run(BERLIN, at("2026-10-24T12:00")) == at("2026-10-25T00:30")
    assert first_run(BERLIN, at("2026-10-25T00:30")) == at("2026-10-26T01:30")


def test_what_was_missed_runs_once_and_an_interval_keeps_its_beat() -> None:
    every = Schedule("every", "", 900)
    assert first_run(every, 1000.0) == 1900.0
    assert following_run(every, 1900.0, 1900.5) == 2800.0
    assert following_run(every, 1900.0, 10_000.0) == 10_900.0
    assert following_run(BERLIN, at("2026-01-11T01:30"), at("2026-01-20T12:00")) == at("2026-01-21T01:30")
    assert following_run(Schedule(), 1.0, 2.0) is None


def test_what_can_never_be_due_is_refused() -> None:
    wrong = (Schedule("daily", "24:00"), Schedule("daily", ""), Schedule("daily", "1:00", 0, "../etc"))
    for schedule in (*wrong, Schedule("every", "", 59)):
        with pytest.raises(InvalidValue):
            check(schedule)
    check(BERLIN)
