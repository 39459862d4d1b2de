from __future__ import annotations

import os
import signal
import time

import pytest

from benchmark import saving
from benchmark.interruption import Interrupted, deferred, listen
from benchmark.saving import Saving


@pytest.fixture
def clock(monkeypatch) -> list[float]:
    """Holds the time."""
    now = [0.0]
    monkeypatch.setattr(saving.time, "monotonic", lambda: now[0])
    return now


def test_saving__after_so_many_seconds_and_at_the_end(clock) -> None:
    saved: list[int] = []
    due = Saving(saved.append, 60.0)
    for step in range(1, 11):
        clock[0] += 25
        due.after_step(step)
    assert saved == [3, 6, 9]
    due.at_end(10)
    due.at_end(10)
    assert saved == [3, 6, 9, 10]


def test_saving__a_training_that_was_at_its_end_is_not_saved_again(clock) -> None:
    Saving(lambda step: pytest.fail("saved"), 60.0, saved=10).at_end(10)


def test_saving__time_starts_when_the_state_is_written(clock) -> None:
    """However long that takes, the same share of the time goes to training."""
    saved: list[int] = []

    def slowly(step: int) -> None:
        saved.append(step)
        clock[0] += 100

    due = Saving(slowly, 60.0)
    for step in range(1, 7):
        clock[0] += 20
        due.after_step(step)
    assert saved == [3, 6]


def test_saving__told_to_stop_saves_the_step_and_stops() -> None:
    saved: list[int] = []
    due = Saving(saved.append, 60.0)
    with pytest.raises(Interrupted), listen(), deferred():
        due.after_step(1)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.01)
        due.after_step(2)
        pytest.fail("goes on")
    assert saved == [2]


def test_saving__asked_to_save_goes_on() -> None:
    saved: list[int] = []
    due = Saving(saved.append, 60.0)
    with listen(going_on=[signal.SIGUSR1]), deferred():
        os.kill(os.getpid(), signal.SIGUSR1)
        time.sleep(0.01)
        due.after_step(1)
        due.after_step(2)
    assert saved == [1]
