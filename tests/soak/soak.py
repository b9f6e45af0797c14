"""Kill random processes of a working deployment at random moments, round by round, and check that nothing is wrong.

    script/soak                                  200 kills, a new seed
    script/soak --kills 50 --seed 7              the same rounds as any other run with seed 7
    script/soak --minutes 60 --kills 100000      for an hour

Prints a JSON line per round and a last one with the summary. Exit code 1 where anything did not hold; then the
deployment of that round, its logs included, stays where the line says. The same seed draws the same rounds; when a blow
falls is up to the machine, so repeat a few times what is rare.
"""

import argparse
import random
import shutil
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import msgspec

from tests.soak.lab import Broken, Lab
from tests.soak.plan import draw
from tests.soak.round import Record, Rounds

_ROUNDS_PER_HOME: Final = 12


class Summary(msgspec.Struct):
    """What all rounds have found. `results`: kind of session and blow to its process → result → count."""

    seed: str
    rounds: int = 0
    kills: int = 0
    kills_by_role: dict[str, int] = {}
    pauses_by_role: dict[str, int] = {}
    results: dict[str, dict[str, int]] = {}
    longest_recovery_s: float = 0.0
    longest_round: str = ""
    duration_s: float = 0.0
    left_temporary: int = 0
    failures: list[dict[str, str | list[str]]] = []


class Soak:
    """Lanes that share one count of kills, each with homes of its own."""

    def __init__(self, args: argparse.Namespace) -> None:
        self._args = args
        self._seed = str(args.seed)
        self._lock = threading.Lock()
        self._kills: Counter[str] = Counter()
        self._pauses: Counter[str] = Counter()
        self._results: dict[str, Counter[str]] = {}
        self._summary = Summary(self._seed)
        self._began = time.monotonic()

    def run(self) -> Summary:
        with ThreadPoolExecutor(self._args.lanes) as pool:
            for lane in [pool.submit(self._lane, number) for number in range(self._args.lanes)]:
                lane.result()
        summary = self._summary
        summary.kills = self._kills.total()
        summary.kills_by_role, summary.pauses_by_role = dict(self._kills), dict(self._pauses)
        summary.results = {name: dict(counts) for name, counts in sorted(self._results.items())}
        summary.duration_s = round(time.monotonic() - self._began, 1)
        return summary

    def _enough(self) -> bool:
        minutes = (time.monotonic() - self._began) / 60
        with self._lock:
            return self._kills.total() >= int(self._args.kills) or minutes >= float(self._args.minutes)

    def _lane(self, number: int) -> None:
        home = 0
        while not self._enough():
            self._home(f"{self._seed}:{number}:{home}")
            home += 1

    def _home(self, seed: str) -> None:
        """Run some rounds in one deployment. It is kept where something did not hold."""
        root = Path(tempfile.mkdtemp(prefix="vbrsoak-", dir=self._args.directory))
        lab = Lab(root, random.Random(seed))  # noqa: S311 - to be drawn again
        failures: list[str] = []
        try:
            lab.set_up()
            rounds = Rounds(lab)
            failures += rounds.first()
            for number in range(_ROUNDS_PER_HOME):
                if failures or self._enough():
                    break
                record = Record(f"{seed}:{number}", draw(f"{seed}:{number}", hangs=self._args.hangs))
                rounds.run(record)
                self._note(record)
                failures += record.failures
            if not failures:
                self._fail(seed, root, last := rounds.last(random.Random(seed)))  # noqa: S311
                failures += last
        except Broken as error:
            failures.append(str(error))
            self._fail(seed, root, failures)
        finally:
            left = lab.close()
        if left:
            failures.append(f"processes outlived the service: {left}")
            self._fail(seed, root, failures[-1:])
        with self._lock:
            self._summary.left_temporary += len(list(lab.temporary.iterdir()))
        if not failures and not self._args.keep:
            shutil.rmtree(root)

    def _note(self, record: Record) -> None:
        with self._lock:
            summary = self._summary
            summary.rounds += 1
            kinds = {session_id: (kind, result, code) for session_id, kind, result, code in record.sessions}
            for blow in record.blows:
                (self._kills if blow.blow == "kill" else self._pauses)[blow.role] += 1
                kind, result, code = kinds.get(blow.session_id, ("no session", "-", ""))
                counts = self._results.setdefault(f"{kind}, {blow.blow} {blow.role}", Counter())
                counts[f"{result} {code}".strip()] += 1
            if record.recovery_s > summary.longest_recovery_s:
                summary.longest_recovery_s, summary.longest_round = record.recovery_s, record.seed
            sys.stdout.write(msgspec.json.encode(record).decode() + "\n")
            sys.stdout.flush()
        self._fail(record.seed, Path(record.files), record.failures)

    def _fail(self, seed: str, files: Path, failures: list[str]) -> None:
        if failures:
            with self._lock:
                self._summary.failures.append({"seed": seed, "files": str(files), "failures": failures})


def main(argv: Sequence[str] | None = None) -> int:
    """Run the rounds; return 1 where anything did not hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200, metavar="N", help="stop after so many (200)")
    parser.add_argument("--seed", type=int, metavar="S", help="draw the rounds of an earlier run again")
    parser.add_argument("--minutes", type=float, default=60.0, metavar="M", help="stop after so many (60)")
    parser.add_argument("--lanes", type=int, default=2, metavar="N", help="deployments at a time (2)")
    parser.add_argument("--no-hangs", dest="hangs", action="store_false", help="stop no process for 20 s and more")
    parser.add_argument("--keep", action="store_true", help="keep the deployments of rounds that went well, too")
    parser.add_argument("--directory", default="/tmp", metavar="DIR", help="a short path (/tmp)")  # noqa: S108
    args = parser.parse_args(argv)
    args.seed = random.SystemRandom().randrange(1 << 32) if args.seed is None else args.seed
    sys.stderr.write(f"seed {args.seed}\n")
    summary = Soak(args).run()
    sys.stdout.write(msgspec.json.encode(summary).decode() + "\n")
    return int(bool(summary.failures))


if __name__ == "__main__":
    sys.exit(main())
