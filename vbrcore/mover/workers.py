"""A few threads that share one piece of work, and the first error of any of them."""

import threading
from collections.abc import Callable

from vbrcore.model.errors import SessionStopped


def run_threads(count: int, work: Callable[[], None], on_error: Callable[[], None]) -> None:
    """Run `work` in `count` threads and wait for all; raise the first error.

    `on_error` is called at once when one fails: it must make the others return.
    """
    errors: list[BaseException] = []

    def guarded() -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - raised again below, on the caller's thread
            errors.append(error)
            on_error()

    threads = [threading.Thread(target=guarded, name=f"worker-{i}", daemon=True) for i in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def stopped() -> SessionStopped:
    """Return the error of a task that was told to stop."""
    return SessionStopped("the task was stopped")
