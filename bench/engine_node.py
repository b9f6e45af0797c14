"""One service node of bench/engine.py: claims sessions one at a time and prints what happens, a JSON line each."""

import argparse
import asyncio
import contextlib
import json
import time

import psycopg

from bench.engine_plain import Claim, PlainEngine
from bench.engine_queue import run_node

_RECONNECT_S = 0.2


def tell(event: str, **values: object) -> None:
    """Print an event at this moment of the clock that all processes of the machine share."""
    print(json.dumps({"event": event, "at": time.monotonic(), **values}), flush=True)


class PlainNode:
    """Claims, works, and does for all nodes what the holder of the role does. Connects again when it is cut off."""

    def __init__(self, dsn: str, node: str, *, lease_s: float, heartbeat_s: float, poll_s: float) -> None:
        self._dsn = dsn
        self._node = node
        self._lease_s = lease_s
        self._heartbeat_s = heartbeat_s
        self._poll_s = poll_s
        self._claim: Claim | None = None
        self._work_until = 0.0
        self._supervised = 0.0
        self._leads = False

    def run(self) -> None:
        while True:
            try:
                engine = PlainEngine(self._dsn, lease_s=self._lease_s)
                with contextlib.closing(engine):
                    engine.listen()
                    tell("ready")
                    while True:
                        self._step(engine)
            except psycopg.OperationalError as error:
                tell("cut_off", reason=str(error).splitlines()[0])
                time.sleep(_RECONNECT_S)

    def _step(self, engine: PlainEngine) -> None:
        if self._claim is not None:
            self._work(engine, self._claim)
            return
        now = time.monotonic()
        if now - self._supervised >= self._heartbeat_s:
            self._supervised = now
            leads = engine.take_role("supervisor", self._node)
            if leads:
                engine.stalled()
            if leads and not self._leads:
                tell("leads")
            self._leads = leads
        self._claim = engine.claim(self._node)
        if self._claim is None:
            engine.wait(min(self._poll_s, self._heartbeat_s))
        else:
            self._work_until = time.monotonic() + self._claim.work_s
            tell("claimed", session=self._claim.session_id)

    def _work(self, engine: PlainEngine, claim: Claim) -> None:
        """Go on with a session, one heartbeat's time at the most. The session itself needs no database."""
        left_s = self._work_until - time.monotonic()
        if left_s > 0:
            time.sleep(min(left_s, self._heartbeat_s))
            held = engine.heartbeat(claim)
        else:
            tell("worked", session=claim.session_id)
            held = engine.finish(claim)
            self._claim = None
        if not held:
            tell("refused", session=claim.session_id)
            self._claim = None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("engine", choices=("plain", "procrastinate"))
    parser.add_argument("dsn")
    parser.add_argument("node")
    for name in ("lease", "heartbeat", "poll"):
        parser.add_argument(f"--{name}", type=float, required=True, metavar="S")
    args = parser.parse_args()
    times = {"lease_s": args.lease, "heartbeat_s": args.heartbeat, "poll_s": args.poll}
    if args.engine == "plain":
        PlainNode(args.dsn, args.node, **times).run()
    else:
        asyncio.run(run_node(args.dsn, args.node, tell, **times))


if __name__ == "__main__":
    main()
