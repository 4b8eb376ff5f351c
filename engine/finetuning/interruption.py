"""Ctrl-C and a batch system's SIGTERM, taken note of at once and obeyed between steps, when all is consistent."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from tle.finetuning.processes import Processes


class Interruption:
    """Whether somebody wants the training to stop.

    Attributes:
        asked: a signal came.
    """

    def __init__(self, before_leaving: Callable[[], str], processes: Processes) -> None:
        """Stop later.

        Args:
            before_leaving: called once, between steps; what it returns is the message to leave with.
            processes: a signal to one of them is one to all, so that all leave after the same step.
        """
        self.asked = False
        self._before_leaving = before_leaving
        self._processes = processes

    def check(self) -> None:
        """Leave if a signal came to any process; all have to call this at the same place.

        Raises:
            KeyboardInterrupt: with where things stand.
        """
        if self._processes.totals(self.asked)[0]:
            raise KeyboardInterrupt(self._before_leaving())

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Catch the signals within the block; a second one is obeyed at once. Elsewhere than in the main thread, nothing."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def note(number: int, frame: FrameType | None) -> None:
            if self.asked:
                signal.default_int_handler(number, frame)
            self.asked = True

        before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
