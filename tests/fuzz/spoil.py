"""Hostile values: bytes, numbers and JSON that are nearly right. All choices are a `random.Random`'s."""

import base64
import json
import os
import random
from typing import Any

# Places where numbers of 8, 16, 32 and 64 bits, and the format's own limits, end.
_SMALL = (0, 1, 2, 31, 32, 63, 64, 255, 256, 4095, 4096, 8192, 65536, 131072, 1 << 18, 1 << 20, 1 << 22, 1 << 26)
_LARGE = ((1 << 26) + (1 << 16), 1 << 27, 1 << 31, 1 << 32, 1 << 48, 1 << 53, 1 << 60, 1 << 62, 1 << 63, 1 << 64)
_EDGES = (*_SMALL, *_LARGE)
_DEEP = "[" * 3000 + "]" * 3000


def hostile_number(random: random.Random, old: int, bits: int = 64) -> int:
    """Return a number for a field of so many bits: near an edge, near what was there, or any."""
    way = random.randrange(4)
    if way == 0:
        number = old + random.choice((-4096, -64, -1, 1, 64, 4096))
    elif way == 1:
        number = random.getrandbits(bits)
    else:
        number = random.choice(_EDGES) + random.choice((-1, 0, 0, 1))
    return number % (1 << bits)


def hostile_bytes(random: random.Random, data: bytes) -> bytes:
    """Return `data` with a few flips, cuts, repetitions or numbers in it."""
    spoilt = bytearray(data)
    for _ in range(random.randint(1, 3)):
        way = random.randrange(6)
        place = random.randrange(len(spoilt) + 1)
        length = random.choice((1, 2, 4, 8, 32, 64))
        if way == 0 and place < len(spoilt):
            spoilt[place] ^= 1 << random.randrange(8)
        elif way == 1:
            del spoilt[place : place + length]
        elif way == 2:
            spoilt[place:place] = spoilt[place : place + length]
        elif way == 3:
            spoilt[place : place + length] = hostile_number(random, 0).to_bytes(8, "little")[:length]
        elif way == 4:
            del spoilt[place:]
        else:
            spoilt[place:place] = random.randbytes(length)
    return bytes(spoilt)


def hostile_value(random: random.Random, old: Any) -> Any:
    """Return a JSON value to stand in the place of another: of another type, or of its own beyond what is allowed."""
    number = old if isinstance(old, int) else 0
    values: list[Any] = [
        None,
        True,
        "",
        [],
        {},
        [old],
        -1,
        1.5,
        1e300,
        "\x00\x1b[2J",
        "../../etc/passwd",
        "\u00e9" * 40,
        base64.b64encode(random.randbytes(random.choice((0, 16, 31, 32, 33)))).decode(),
        base64.b64encode(bytes(32)).decode(),
        "0" * random.choice((31, 32, 33, 5000)),
        random.randbytes(16).hex(),
        hostile_number(random, number),
        -hostile_number(random, number),
        1 << 70,
        int("9" * 400),
    ]
    return random.choice(values)


def places(value: Any) -> list[tuple[Any, Any]]:
    """Return (container, key) of everything in a JSON value."""
    found: list[tuple[Any, Any]] = []
    if isinstance(value, dict | list):
        keys: Any = value.keys() if isinstance(value, dict) else range(len(value))
        for key in keys:
            found.append((value, key))
            found += places(value[key])
    return found


def hostile_json(random: random.Random, text: bytes) -> bytes:
    """Return a JSON text with a value changed, left out or doubled, or with its bytes spoilt."""
    way = random.randrange(10)
    if way == 0:
        return hostile_bytes(random, text)
    if way == 1:
        return b'{"deep":' + _DEEP.encode() + b"," + text[1:]
    value = json.loads(text)
    for _ in range(random.randint(1, 2)):
        container, key = random.choice(places(value))
        way = random.randrange(5)
        if way == 0:
            del container[key]
        elif way == 1 and isinstance(container, list):
            container.insert(random.randrange(len(container) + 1), container[key])
        elif way == 2:
            other, there = random.choice(places(value))
            container[key] = json.loads(json.dumps(other[there]))
        else:
            container[key] = hostile_value(random, container[key])
        if not places(value):
            break
    return json.dumps(value).encode()


def environment_number(name: str, default: int) -> int:
    """Return a number that the environment may set: how long a test goes on."""
    return int(os.environ.get(name, default))
