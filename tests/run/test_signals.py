"""Signals in a run are noted, obeyed the second time, and back to what they were afterwards."""

import os
import signal
import threading

import pytest

from fastiseat.errors import UserError
from fastiseat.run.signals import EXIT_CODES, Interruptions, Stopped


def send(number):
    os.kill(os.getpid(), number)


def handlers():
    return [signal.getsignal(number) for number in EXIT_CODES]


@pytest.fixture(autouse=True)
def handlers_stay():
    before = handlers()
    yield
    assert handlers() == before


@pytest.mark.parametrize("number", EXIT_CODES)
def test_a_signal_is_noted(number):
    with Interruptions() as stop:
        assert stop.requested is None
        send(number)
        assert stop.requested is number
    stopped = Stopped(stop.requested, "in good order")
    assert stopped.signal is number
    assert str(stopped) == f"stopped by {number.name} in good order"


def test_the_exit_codes_are_the_documented_ones():
    codes = {number.name: Stopped(number, "").exit_code for number in EXIT_CODES}
    assert codes == {"SIGINT": 130, "SIGTERM": 143, "SIGUSR1": 138}


def test_the_second_sigint_interrupts_at_once():
    with Interruptions() as stop:
        send(signal.SIGINT)
        send(signal.SIGTERM)
        assert stop.requested is signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            send(signal.SIGINT)


def test_sigint_after_another_signal_is_the_first():
    with Interruptions() as stop:
        send(signal.SIGUSR1)
        send(signal.SIGTERM)
        send(signal.SIGINT)
        assert stop.requested is signal.SIGUSR1


def test_handlers_come_back_after_an_error_too():
    before = handlers()
    with pytest.raises(UserError, match="in the block"), Interruptions():
        raise UserError("in the block")
    assert handlers() == before


def test_what_the_process_ignores_stays_ignored():
    found = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with Interruptions() as stop:
            send(signal.SIGINT)
            send(signal.SIGINT)
            assert stop.requested is None
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, found)


def test_another_thread_takes_no_handlers():
    found = []

    def run():
        with Interruptions() as stop:
            found.append((handlers(), stop.requested))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert found == [(handlers(), None)]
