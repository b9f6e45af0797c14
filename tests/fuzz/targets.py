"""What is fuzzed: each target is a function of a source of choices, and fails by any exception but a typed error."""

import contextlib
import importlib.util
import io
import os
import random
import shutil
import socket
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from tests.fuzz.chains import SHAPES, Chain, Sender, chain_of
from tests.fuzz.mutations import mutated
from tests.fuzz.oracle import Unknown, Wrong, expected, look, typed
from vbrcore.chain.writer import ChainWriter
from vbrcore.model.errors import FormatInvalid, VbrError
from vbrcore.storage.capabilities import StorageClass
from vbrcore.testing import chain_kit as kit
from vbrcore.testing.memory_storage import MemoryStorage

EXTRACTOR = Path(__file__).resolve().parents[2] / "extras" / "vbf_extract.py"
CLASSES: Final[tuple[StorageClass, ...]] = ("clone", "punch", "copy")
Target = Callable[[random.Random], None]


def _storage_of(files: dict[str, bytearray], storage_class: StorageClass = "clone") -> MemoryStorage:
    storage = MemoryStorage(storage_class=storage_class)
    storage.files = {name: bytearray(data) for name, data in files.items()}  # type: ignore[assignment, misc]
    return storage


def chain(random: random.Random) -> None:
    """Readers: listing, restore, checks."""
    good = chain_of(random.choice(sorted(SHAPES)))
    files, model = mutated(random, good)
    look(_storage_of(files), model)


def writer(random: random.Random) -> None:
    """A writer goes on with spoilt files, and gives back: what was whole stays whole."""
    good = chain_of(random.choice(sorted(SHAPES)))
    files, model = mutated(random, good)
    storage = _storage_of(files, random.choice(CLASSES))
    before = look(storage, model)
    home = Path(tempfile.mkdtemp(prefix="vbr-fuzz-"))
    forgotten: set[str] = set()
    try:
        for _ in range(2):
            opened = typed(lambda: kit.open_writer(storage, home, encrypt=good.chain_key is not None))
            if opened is None:
                continue
            try:
                _go_on(random, model, opened, storage.storage_class, forgotten)
            finally:
                opened.close()
    finally:
        shutil.rmtree(home)
    after = look(storage, model)
    if lost := before - after - forgotten:
        raise Wrong(f"points that were whole were lost by a writer: {sorted(lost)}")


def _go_on(
    random: random.Random, model: Chain, opened: ChainWriter, storage_class: StorageClass, forgotten: set[str]
) -> None:
    """Do what a session does, in any order."""
    typed(lambda: opened.damaged)
    for _ in range(random.randint(1, 4)):
        way = random.randrange(6)
        if way == 0:
            image = {0: kit.content(random.randrange(10)), 1: kit.content(2)}
            typed(lambda: Sender(model, opened).point((image, kit.size_of(3))))
        elif way == 1 and opened.points:
            chosen = random.choice(opened.points).point_id
            forgotten.update(typed(lambda: opened.forget([chosen])) or [chosen])
        elif way == 2:
            typed(lambda: opened.give_back(storage_class, force=bool(random.randrange(2))))
        elif way == 3:
            typed(lambda: opened.compact(storage_class, rewrite=bool(random.randrange(2))))
        elif way == 4:
            typed(lambda: opened.synthetic_full(storage_class))
        elif model.key_slots:
            typed(lambda: opened.set_key_slots(model.key_slots * 2))
    typed(opened.seal)
