"""The long run: `script/fuzz`. One process per target; what fails is kept and can be run again."""

import argparse
import contextlib
import json
import random
import subprocess
import sys
import time
import traceback
from pathlib import Path
from types import ModuleType
from typing import NoReturn

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

try:
    import atheris
except ImportError:
    atheris = None

with contextlib.nullcontext() if atheris is None else atheris.instrument_imports(include=["vbrcore"]):
    from tests.fuzz.chains import SHAPES, chain_of
    from tests.fuzz.oracle import bounded, limit_memory
    from tests.fuzz.targets import TARGETS, Target

HERE = Path(__file__).resolve()
RESULTS = HERE.parents[2] / ".fuzz"


class Choices(random.Random):
    """Choices that bytes decide on, so that an engine that changes bytes changes choices. At their end: zeros."""

    def __init__(self, data: bytes) -> None:
        super().__init__(0)
        self._data = data
        self._place = 0

    def random(self) -> float:
        return self.getrandbits(53) / (1 << 53)

    def getrandbits(self, k: int, /) -> int:
        count = -(-k // 8)
        part = self._data[self._place : self._place + count].ljust(count, b"\0")
        self._place += count
        return int.from_bytes(part, "little") >> (8 * count - k)


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main() -> int:
    options = _options()
    for shape in SHAPES:
        chain_of(shape)
    if options.target is None:
        return _all(options)
    target = TARGETS[options.target][0]
    if options.seed is not None and options.executions is None:
        with bounded():
            target(random.Random(options.seed))  # noqa: S311 - choices, not secrets
        say(f"{options.target}: seed {options.seed} passes")
        return 0
    if options.input is not None:
        with bounded():
            target(Choices(options.input.read_bytes()))
        say(f"{options.target}: {options.input} passes")
        return 0
    if options.engine == "atheris" and atheris is not None:
        _with_atheris(options, target, atheris)
    return _with_seeds(options, target)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, prog="script/fuzz")
    parser.add_argument("--seconds", type=float, default=600, help="of all targets together; default 600")
    parser.add_argument("--target", choices=sorted(TARGETS), help="default: all, one after the other")
    parser.add_argument("--executions", type=int, help="end after so many of a target")
    parser.add_argument("--seed", type=int, help="run one again, or with --executions: the first of them")
    parser.add_argument("--input", type=Path, help="run an input of atheris again")
    default = "atheris" if atheris is not None else "random"
    parser.add_argument("--engine", choices=("atheris", "random"), default=default)
    return parser.parse_args()


def _all(options: argparse.Namespace) -> int:
    """Give each target its part of the time, by what the suite gives it; whole chains are worth most."""
    say(f"engine: {options.engine}" + ("" if atheris is not None else " (atheris is not installed)"))
    failed = 0
    weights = {name: 6 if name in {"chain", "writer", "extractor"} else 1 for name in TARGETS}
    for name, weight in weights.items():
        seconds = options.seconds * weight / sum(weights.values())
        command = [sys.executable, str(HERE), "--target", name, "--seconds", str(seconds), "--engine", options.engine]
        failed |= subprocess.run(command, check=False).returncode
    return int(bool(failed))


def _with_seeds(options: argparse.Namespace, target: Target) -> int:
    """Run seed after seed. Prints one JSON line at the end."""
    seed = options.seed if options.seed is not None else random.SystemRandom().getrandbits(48)
    with bounded():
        target(random.Random(seed))  # noqa: S311 - imports and caches, before memory is limited
    limit_memory()
    failures: dict[str, int] = {}
    count = 0
    end = time.monotonic() + options.seconds
    while time.monotonic() < end and count != options.executions:
        try:
            with bounded():
                target(random.Random(seed + count))  # noqa: S311
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # noqa: BLE001 - whatever it is, it is what is looked for
            text = _text_of(error)
            if text not in failures:
                failures[text] = seed + count
                sys.stderr.write(f"{options.target}: seed {seed + count}:\n{text}\n")
        count += 1
    figures = {"executions": count, "seed": seed, "failed": len(failures)}
    say(json.dumps({"target": options.target, "engine": "random"} | figures))
    return int(bool(failures))


def _text_of(error: BaseException) -> str:
    return "".join(traceback.format_exception(error)[-3:])


def _with_atheris(options: argparse.Namespace, target: Target, engine: ModuleType) -> NoReturn:
    """Let coverage guide the bytes that decide on the choices. Does not return: libFuzzer ends the process."""
    folder = RESULTS / options.target
    corpus = folder / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    if not any(corpus.iterdir()):
        for seed in range(32):
            (corpus / f"first-{seed}").write_bytes(random.Random(seed).randbytes(400))  # noqa: S311

    def once(data: bytes) -> None:
        with bounded():
            target(Choices(data))

    once(bytes(64))
    limit_memory()
    arguments = [sys.argv[0], str(corpus), f"-max_total_time={int(options.seconds)}", "-max_len=4096"]
    arguments += [f"-artifact_prefix={folder}/", "-rss_limit_mb=0", "-print_final_stats=1", "-verbosity=0"]
    engine.Setup(arguments, once)
    engine.Fuzz()
    raise SystemExit(0)


if __name__ == "__main__":
    sys.exit(main())
