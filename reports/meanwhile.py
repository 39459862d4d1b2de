"""Work that is done in a process of its own, while this one goes on."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, wait
from typing import TypeVar

Result = TypeVar("Result")


@contextmanager
def meanwhile(work: Callable[[], Result]) -> Iterator[Callable[[], Result]]:
    """Do some work in a copy of this process; yields what waits for its result.

    The copy has everything that is in memory here, at no cost, and ends with its work, or with this
    process. Threads are not copied, and a lock that one holds stays shut in the copy: neither is a
    process that trains to be copied nor, on macOS, any. The thread that keeps a report's folder
    locked holds none that the work needs.

    Raises:
        ValueError, OSError: on waiting, as the work did.
        ChildProcessError: on waiting, if the copy ended otherwise; it has printed why.
    """
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_do, args=(work, receiver, sender))
    process.start()
    sender.close()

    def result() -> Result:
        try:
            outcome = receiver.recv()
        except (EOFError, OSError) as error:
            process.join()
            why = "killed, as happens where memory is short; free some and start again"
            if process.exitcode is not None and process.exitcode >= 0:
                why = "its mistake is told above"
            raise ChildProcessError(
                f"a process of this report ended without a result ({why})"
            ) from error
        if isinstance(outcome, Exception):
            raise outcome
        found: Result = outcome
        return found

    try:
        yield result
    finally:
        receiver.close()
        process.join()


def _do(work: Callable[[], object], receiver: Connection, sender: Connection) -> None:
    receiver.close()  # of which this process has a copy: open, it would look as if somebody read
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        outcome = work()
    except (ValueError, OSError) as error:
        outcome = error
    with suppress(BrokenPipeError):  # where nobody waits for it any more
        sender.send(outcome)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)
