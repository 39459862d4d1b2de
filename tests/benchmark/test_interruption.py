from __future__ import annotations

import os
import signal
import time

import pytest

from benchmark import interruption
from benchmark.interruption import Interrupted, deferred, listen


def send(*signals: signal.Signals) -> None:
    for number in signals:
        os.kill(os.getpid(), number)
        time.sleep(0.01)  # a bytecode on which the handler runs


def test_listen__raises_at_once_where_nothing_is_deferred() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Interrupted, match="told to stop by SIGTERM") as caught, listen():
        send(signal.SIGTERM)
        pytest.fail("goes on")
    assert caught.value.exit_status == 143
    assert signal.getsignal(signal.SIGTERM) is before
    assert interruption.asked() is None


def test_deferred__waits_until_the_end() -> None:
    seen = []
    with pytest.raises(Interrupted), listen():
        with deferred(), deferred():
            send(signal.SIGTERM, signal.SIGTERM)
            seen.append(interruption.asked())
        pytest.fail("goes on")
    assert seen == [signal.SIGTERM]


def test_deferred__another_error_comes_first() -> None:
    with pytest.raises(ValueError, match="first"), listen(), deferred():
        send(signal.SIGINT)
        raise ValueError("first")


def test_deferred__a_second_ctrl_c_does_not_wait() -> None:
    with pytest.raises(Interrupted), listen(), deferred():
        send(signal.SIGINT)
        assert interruption.asked() == signal.SIGINT
        send(signal.SIGINT)
        pytest.fail("goes on")


def test_listen__a_signal_that_asks_to_save_stops_nothing() -> None:
    with listen([signal.SIGUSR2], going_on=[signal.SIGTERM]):
        assert not interruption.asked_to_save()
        send(signal.SIGTERM)
        assert interruption.asked_to_save()
        assert not interruption.asked_to_save()  # it has been told
        assert interruption.asked() is None
