"""Random histories of a chain against a dict of images: every kept point restores, and little else is stored.

VBRCORE_HISTORIES says how many for each storage class (short form: 12). A history that fails is printed as a program.
"""

import os

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.chain.history_model import LEAK_BYTES, MOST_POINTLESS, Histories
from vbrcore.chain import eviction
from vbrcore.storage.capabilities import STORAGE_CLASSES, StorageClass

EXAMPLES = int(os.environ.get("VBRCORE_HISTORIES", "12"))


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
            print_blob=True, phases=(Phase.generate,),
            suppress_health_check=list(HealthCheck),
        ),
    )
