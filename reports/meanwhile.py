"""Work that is done in a process of its own, while this one goes on."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import TypeVar, cast

Result = TypeVar("Result")

_work: Callable[[], object]  # of the process that does it


@contextmanager
def meanwhile(work: Callable[[], Result]) -> Iterator[Callable[[], Result]]:
    """Do some work in a copy of this process; yields what waits for its result.

    The copy has everything that is in memory here, at no cost, and hands back its result, or the
    exception that it raised. A process with threads that may hold a lock is not to be copied:
    neither one that trains nor, on macOS, any.

    Raises:
        ChildProcessError: on waiting, if the copy was killed.
    """
    context = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(1, context, initializer=_keep, initargs=(work,)) as pool:
        done = pool.submit(_do)

        def result() -> Result:
            try:
                return cast(Result, done.result())
            except BrokenProcessPool as error:
                raise ChildProcessError(
                    "a process of this report was killed, as happens where memory is short; free "
                    "some and start again"
                ) from error

        yield result


def _keep(work: Callable[[], object]) -> None:
    global _work
    _work = work


def _do() -> object:
    return _work()
