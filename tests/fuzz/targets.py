"""What is fuzzed. A target is a function of a source of choices; any exception but those it expects is a failure."""

import random
from collections.abc import Callable
from typing import Final

from tests.fuzz import parts, whole, wire

Target = Callable[[random.Random], None]

# Name: (the target, how many executions the suite gives it).
TARGETS: Final[dict[str, tuple[Target, int]]] = {
    "chain": (whole.chain, 70),
    "writer": (whole.writer, 30),
    "extractor": (whole.extractor, 35),
    "slots": (parts.slots, 150),
    "contents": (parts.contents, 150),
    "rows": (parts.rows, 150),
    "maps": (parts.maps, 150),
    "codec": (parts.codec, 100),
    "extents": (parts.extents, 100),
    "points": (parts.points, 150),
    "keys": (parts.keys, 150),
    "pins": (wire.pins, 150),
    "identity": (wire.identity, 100),
    "data-frames": (wire.data_frames, 200),
    "control-messages": (wire.control_messages, 200),
}
