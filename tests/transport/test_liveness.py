import time

from vbrcore.model.liveness import Liveness
from vbrcore.model.times import Timing, timing_from


def test_silence_is_final() -> None:
    liveness = Liveness(0.05)
    liveness.heard()
    assert not liveness.cut_off
    time.sleep(0.1)
    liveness.heard()  # an old heartbeat, found in the pipe by a process that was stopped
    assert liveness.cut_off


def test_the_end_of_the_stream_is_final() -> None:
    liveness = Liveness(60)
    liveness.end()
    liveness.heard()
    assert liveness.cut_off


def test_timing_survives_a_command_line() -> None:
    assert timing_from("") == Timing()
    assert timing_from(Timing(0.25, 1.5).argument()) == Timing(0.25, 1.5)
