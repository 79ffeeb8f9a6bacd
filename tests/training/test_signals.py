"""Every signal that asks a run to stop is noted, and only while the run looks for it."""

import os
import signal

import pytest

from cassr_jax.training.signals import watch_signals


@pytest.fixture(autouse=True)
def usual_handlers():
    """A shell that starts the tests in the background has them ignore some signals."""
    usual = {signal.SIGINT: signal.default_int_handler, signal.SIGHUP: signal.SIG_DFL, signal.SIGTERM: signal.SIG_DFL}
    before = {number: signal.signal(number, handler) for number, handler in usual.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_is_noted_and_the_handler_before_comes_back(number):
    before = signal.getsignal(number)
    with watch_signals() as asked:
        assert not asked(1)
        os.kill(os.getpid(), number)
        assert asked(2)
    assert signal.getsignal(number) == before


def test_a_second_ctrl_c_does_not_wait():
    with watch_signals():
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_what_is_ignored_stays_ignored():
    """As SIGHUP is under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with watch_signals() as asked:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not asked(1)
    finally:
        signal.signal(signal.SIGHUP, before)
