import signal
import threading

import pytest

from tle.finetuning.interruption import Interruption
from tle.finetuning.processes import Processes


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_noted_and_obeyed_when_asked(number):
    calls = []
    interruption = Interruption(lambda: calls.append(1) or "on it goes", Processes())
    before = signal.getsignal(number)
    with interruption.listening():
        interruption.check()
        signal.raise_signal(number)
        assert interruption.asked
        assert not calls
        with pytest.raises(KeyboardInterrupt, match="on it goes"):
            interruption.check()
        with pytest.raises(KeyboardInterrupt):  # somebody means it
            signal.raise_signal(number)
    assert signal.getsignal(number) is before
    assert calls == [1]


def test_other_threads_leave_signals_alone():
    found = []

    def work():
        with Interruption(lambda: "", Processes()).listening():
            found.append(signal.getsignal(signal.SIGINT))

    before = signal.getsignal(signal.SIGINT)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [before]
