from hypothesis import given
from hypothesis import strategies as st

from vbrcore.manager.selection import select
from vbrcore.model.inventory import Machine
from vbrcore.model.job import Job


def job(*machines: str, exclude: tuple[str, ...] = ()) -> Job:
    return Job("j", "nightly", "h", "r", machines=machines, exclude=exclude)


def inventory(*names: str) -> list[Machine]:
    return [Machine(f"id-{name}", name) for name in names]


def test_names_and_patterns_choose_each_machine_once() -> None:
    chosen = select(job("web1", "web*"), inventory("db", "web1", "web2"), ())
    assert [machine.name for machine in chosen.machines] == ["web1", "web2"]
    assert chosen.missing == chosen.vanished == chosen.unmatched == ()


def test_exclusion_wins() -> None:
    chosen = select(job("*", exclude=("web?",)), inventory("db", "web1"), ())
    assert [machine.name for machine in chosen.machines] == ["db"]


def test_a_machine_can_be_named_by_its_id() -> None:
    chosen = select(job("id-db"), inventory("db", "web"), ())
    assert [machine.name for machine in chosen.machines] == ["db"]


def test_a_named_machine_that_is_not_there_is_missing() -> None:
    assert select(job("gone", "db"), inventory("db"), ()).missing == ("gone",)


def test_a_pattern_without_a_match_is_a_failure_only_where_it_matched_before() -> None:
    assert select(job("web*"), inventory("db"), ()).unmatched == ("web*",)
    chosen = select(job("web*"), inventory("db"), {"web1"})
    assert chosen.vanished == ("web*",)
    assert chosen.unmatched == ()


def test_a_name_with_brackets_is_found_by_itself() -> None:
    chosen = select(job("db[1]"), inventory("db[1]", "db1"), ())
    assert {machine.name for machine in chosen.machines} == {"db[1]", "db1"}


@given(st.lists(st.text(min_size=1, max_size=8), unique=True, max_size=12))
def test_the_star_chooses_every_machine_in_the_inventory_order(names: list[str]) -> None:
    assert [machine.name for machine in select(job("*"), inventory(*names), ()).machines] == names
