from vbrcore.mover.audit import Tally, sample
from vbrcore.mover.plan import Run


def audited(runs: list[Run], seed: int) -> list[int]:
    tally = Tally()
    list(tally.watch(runs))
    return sample(runs, tally, seed)


def test_at_least_eight_blocks_and_five_percent_of_what_is_read() -> None:
    assert len(audited([Run(0, 1, "data"), Run(1, 1000, "unchanged")], 0)) == 8
    assert len(audited([Run(0, 1000, "data"), Run(1000, 1000, "unchanged")], 0)) == 50
    assert audited([Run(0, 1, "data"), Run(1, 3, "unchanged")], 5) == [1, 2, 3]
    assert audited([Run(0, 10, "data"), Run(10, 10, "zero")], 5) == []


def test_neighbours_of_changes_come_first() -> None:
    runs = [Run(0, 500, "unchanged"), Run(500, 1, "data"), Run(501, 500, "unchanged")]
    for seed in range(5):
        assert {499, 501} <= set(audited(runs, seed))


def test_repeated_sessions_cover_the_disk() -> None:
    runs = [Run(0, 300, "unchanged"), Run(300, 5, "data"), Run(305, 20, "zero"), Run(325, 100, "unchanged")]
    covered: set[int] = set()
    for seed in range(80):
        covered |= set(audited(runs, seed))
    assert covered == set(range(300)) | set(range(325, 425))


def test_only_unchanged_blocks_are_audited() -> None:
    runs = [Run(2 * i, 1, "data" if i % 2 else "zero") for i in range(50)]
    runs = [part for run in runs for part in (run, Run(run.first + 1, 1, "unchanged"))]
    for seed in range(100):
        assert all(block % 2 == 1 for block in audited(runs, seed))
