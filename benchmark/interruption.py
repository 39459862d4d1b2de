"""Being told to stop: between two steps where that saves work, else at once.

SIGTERM, SIGINT and the signals by which a scheduler announces the end ask a process to stop. While
it trains, the request waits until the step is done and its state saved (`deferred`); everywhere
else `Interrupted` is raised where the process happens to be, which is safe, since files are written
whole or not at all. A second SIGINT does not wait.
"""

from __future__ import annotations

import signal
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from types import FrameType

STOPPING = (signal.SIGTERM, signal.SIGINT)


class Interrupted(BaseException):
    """The process was told to stop. No `Exception`, as nothing but its end can follow.

    Attributes:
        signal: number of the signal that told it.
    """

    def __init__(self, signum: int) -> None:
        self.signal = signum
        super().__init__(f"told to stop by {signal.Signals(signum).name}")

    @property
    def exit_status(self) -> int:
        """What a shell reports for a process that the signal has ended."""
        return 128 + self.signal


_asked: int | None = None
_save = False
_deferring = 0


def ask(signum: int, _frame: FrameType | None = None) -> None:
    """Ask this process to stop; a handler of signals.

    Raises:
        Interrupted: where nothing is deferred, or if SIGINT comes again.
    """
    global _asked
    impatient = _asked == signum == signal.SIGINT
    _asked = signum
    if impatient or not _deferring:
        raise Interrupted(signum)


def _ask_to_save(_signum: int, _frame: FrameType | None = None) -> None:
    global _save
    _save = True


def asked() -> int | None:
    """The signal that asked this process to stop, None if none did."""
    return _asked


def asked_to_save() -> bool:
    """Whether a signal of ``going_on`` came since the last call."""
    global _save
    told, _save = _save, False
    return told


@contextmanager
def listen(
    stopping: Collection[signal.Signals] = STOPPING, going_on: Collection[signal.Signals] = ()
) -> Iterator[None]:
    """Let signals ask, inside; only the main thread of a process can.

    Args:
        stopping: those that ask to stop.
        going_on: those that ask for the state to be saved soon, without stopping.
    """
    global _asked, _save
    handlers = dict.fromkeys(stopping, ask) | dict.fromkeys(going_on, _ask_to_save)
    before = {s: signal.signal(s, handler) for s, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        _asked, _save = None, False


@contextmanager
def deferred() -> Iterator[None]:
    """Inside, a request waits for who asks `asked`; one that is left waiting is met at the end.

    Raises:
        Interrupted: at the end, if a request is still waiting and nothing else was raised.
    """
    global _deferring
    _deferring += 1
    try:
        yield
    finally:
        _deferring -= 1
    if _asked is not None and not _deferring:
        raise Interrupted(_asked)
