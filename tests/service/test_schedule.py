from datetime import UTC, datetime

import pytest

from vbrcore.model.errors import InvalidValue
from vbrcore.model.job import Schedule, Window
from vbrcore.service.schedule import check, first_run, following_run, preview

BERLIN = Schedule("daily", "02:30", 0, "Europe/Berlin")


def at(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


def test_daily_follows_the_zone_and_its_changes() -> None:
    assert first_run(BERLIN, at("2026-01-10T12:00")) == at("2026-01-11T01:30")
    assert first_run(BERLIN, at("2026-07-10T12:00")) == at("2026-07-11T00:30")
    assert first_run(BERLIN, at("2026-01-11T01:30")) == at("2026-01-12T01:30")
    # 02:30 does not exist on 29 March: the moment after; and it is there twice on 25 October. Once each.
    assert first_run(BERLIN, at("2026-03-28T12:00")) == at("2026-03-29T01:00")
    assert first_run(BERLIN, at("2026-03-29T01:00")) == at("2026-03-30T00:30")
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


NIGHT = Window("22:00", "06:00", "Europe/Berlin")


@pytest.mark.parametrize(
    "schedule",
    [
        Schedule("days", daily="21:00"),
        Schedule("days", daily="21:00", days="someday"),
        Schedule("cron", cron=""),
        Schedule("cron", cron="* * * *"),
        Schedule("cron", cron="0 0 12 * * *"),
        Schedule("cron", cron="0 0 31 2 *"),
        Schedule("cron", cron="61 0 * * *"),
        Schedule("cron", cron="0 " + "1," * 500 + "1 * * *"),
        Schedule("cron", cron="0 12 * * *", zone="Europe/Berlin", window=NIGHT),
        Schedule("after"),
        Schedule("continuous", every_s=1),
        Schedule("daily", "12:00", zone="Europe/Berlin", window=NIGHT),
        Schedule("every", every_s=900, window=Window("22:00", "")),
        Schedule("every", every_s=900, hard_window=True),
        Schedule("every", every_s=900, retries=-1),
        Schedule("every", every_s=900, retries=101),
        Schedule("every", every_s=900, retry_wait_s=0),
    ],
)
def test_what_makes_no_sense_is_refused(schedule: Schedule) -> None:
    with pytest.raises(InvalidValue):
        check(schedule)


def test_days_are_those_of_the_zone() -> None:
    last_saturday = Schedule("days", "23:30", zone="America/New_York", days="last sat")
    check(last_saturday)
    assert first_run(last_saturday, at("2026-11-02T00:00")) == at("2026-11-29T04:30")
    assert first_run(last_saturday, at("2026-11-29T04:30")) == at("2026-12-27T04:30")


def test_cron_text_follows_the_zone_and_its_changes() -> None:
    nightly = Schedule("cron", cron="30 2 * * *", zone="Europe/Berlin")
    assert list(preview(nightly, first_run(nightly, at("2026-03-28T00:00")), 3)) == [
        at("2026-03-28T01:30"),
        at("2026-03-29T01:00"),
        at("2026-03-30T00:30"),
    ]
    assert list(preview(nightly, first_run(nightly, at("2026-10-24T12:00")), 2)) == [
        at("2026-10-25T00:30"),
        at("2026-10-26T01:30"),
    ]
    assert first_run(nightly, at("2026-10-25T01:10")) == at("2026-10-26T01:30")
    office = Schedule("cron", cron="0 8-18 * * MON-FRI", zone="Europe/Berlin")
    assert first_run(office, at("2026-11-27T17:00")) == at("2026-11-30T07:00")


def test_an_interval_waits_for_its_window_and_goes_on_from_there() -> None:
    every = Schedule("every", every_s=4 * 3600, window=NIGHT)
    assert list(preview(every, at("2026-11-28T21:00"), 4)) == [
        at("2026-11-28T21:00"),
        at("2026-11-29T01:00"),
        at("2026-11-29T21:00"),
        at("2026-11-30T01:00"),
    ]
    # The night of the change to summer time is an hour shorter.
    assert following_run(every, at("2026-03-29T00:30"), at("2026-03-29T00:30")) == at("2026-03-29T20:00")


def test_cron_moments_outside_the_window_do_not_count() -> None:
    hourly = Schedule("cron", cron="0 * * * *", zone="Europe/Berlin", window=NIGHT)
    check(hourly)
    assert first_run(hourly, at("2026-11-29T04:00")) == at("2026-11-29T21:00")
