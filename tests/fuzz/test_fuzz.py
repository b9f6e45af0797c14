"""Everything that comes from outside, spoilt: a short form of what script/fuzz does for as long as one likes."""

import json
import random
import subprocess
import sys
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, given, settings

from tests.fuzz.chains import SHAPES, chain_of
from tests.fuzz.draft import NotWhole
from tests.fuzz.mutations import MUTATIONS, Mutation
from tests.fuzz.oracle import Wrong, bounded, look
from tests.fuzz.spoil import environment_number
from tests.fuzz.targets import TARGETS
from tests.fuzz.whole import storage_of

PROGRAM = Path(__file__).with_name("fuzz.py")
TIMES = environment_number("VBRCORE_FUZZ", 1)


@pytest.mark.parametrize("name", TARGETS)
def test_what_comes_from_outside_ends_in_a_typed_error_or_is_right(name: str) -> None:
    target, executions = TARGETS[name]
    for shape in SHAPES:
        chain_of(shape)  # made once, outside of what is measured

    # The short form draws the same each time; a longer one is there to find what is new.
    @settings(
        max_examples=executions * TIMES,
        derandomize=TIMES == 1,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.randoms(use_true_random=False))
    def run(choices: random.Random) -> None:
        with bounded():
            target(choices)

    run()


@pytest.mark.parametrize("name", ["chain", "extractor", "codec", "contents"])
def test_hostile_input_takes_no_more_memory_than_is_stated(name: str) -> None:
    """In a process of its own, whose private memory may grow by `MEMORY_BYTES` and no more."""
    command = [
        sys.executable,
        str(PROGRAM),
        "--target",
        name,
        "--executions",
        "25",
        "--seed",
        "1",
        "--engine",
        "random",
    ]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=110)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["executions"] == 25


@pytest.mark.parametrize("shape", SHAPES)
def test_chains_that_nobody_spoilt_are_whole(shape: str) -> None:
    good = chain_of(shape)
    model = good.copy()
    storage = storage_of({name: bytearray(data) for name, data in good.files.items()})
    whole = look(storage, model)
    # What was forgotten is not listed, and of what was marked as damaged there is no other copy.
    assert len(whole) == {"increments": 3, "fulls": 2, "encrypted": 2}[shape]


@pytest.mark.parametrize("mutation", dict.fromkeys(MUTATIONS))
def test_each_mutation_changes_a_chain_that_is_whole(mutation: Mutation) -> None:
    good = chain_of("increments")
    changed = 0
    for seed in range(20):
        files = {name: bytearray(data) for name, data in good.files.items()}
        try:
            mutation(random.Random(seed), files, good.copy())  # noqa: S311 - choices, not secrets
        except NotWhole:  # this one needs what the file that was drawn has not
            continue
        changed += files != good.files
    assert changed >= 5


def test_a_restore_of_other_bytes_would_be_seen() -> None:
    """The judge itself: one other byte in the model is one wrong byte in what is restored."""
    good = chain_of("fulls")
    model = good.copy()
    (point_id, number), image = list(model.images.items())[-1]
    first = min(image)
    model.images = {key: dict(image) for key, image in model.images.items()}
    model.images[point_id, number][first] = b"x" + image[first][1:]
    storage = storage_of({name: bytearray(data) for name, data in good.files.items()})
    with pytest.raises(Wrong):
        look(storage, model)
