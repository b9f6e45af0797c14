"""Random histories of a chain against a dict of images: every kept point restores, and little else is stored.

VBRCORE_HISTORIES says how many for each storage class, new ones each time (short form: always the same 8). A history
that fails is printed as a program, not made shorter (that takes many minutes), and how Hypothesis runs it again.
"""

import os

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.chain.history_model import LEAK_BYTES, MOST_POINTLESS, Histories
from vbrcore.chain import eviction
from vbrcore.storage.capabilities import STORAGE_CLASSES, StorageClass

CHOSEN = os.environ.get("VBRCORE_HISTORIES")
EXAMPLES = int(CHOSEN or "8")


@pytest.mark.parametrize("storage_class", STORAGE_CLASSES)
def test_histories(storage_class: StorageClass, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(eviction, "MOST_POINTLESS_FILES", MOST_POINTLESS)
    monkeypatch.setattr(eviction, "LEAK_BYTES", LEAK_BYTES)
    machine = type(f"Histories_{storage_class}", (Histories,), {"storage_class": storage_class})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=30,
            deadline=None,
            derandomize=CHOSEN is None,
            database=None,
            print_blob=True,
            phases=(Phase.generate,),
            suppress_health_check=list(HealthCheck),
        ),
    )
