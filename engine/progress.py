"""Progress of long work on standard error: a live bar on a terminal, plain lines in a pipe or a log."""

import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress as Bar
    from rich.progress import TaskID

PLAIN_INTERVAL_S = 10.0  # a log of an hour's run stays at some hundred lines


class Progress:
    """Counts finished and failed items; shows rate, time left and failures."""

    def __init__(self, total: int, what: str, unit: str) -> None:
        self.total = total
        self.done = 0
        self.failed = 0
        self._what = what
        self._unit = unit
        self._started = time.monotonic()
        self._shown = self._started

    @property
    def rate(self) -> float:
        """Items per second since the start."""
        return self.done / max(time.monotonic() - self._started, 1e-9)

    @property
    def elapsed_s(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._started

    def advance(self, done: int, failed: int = 0) -> None:
        """Count `done` more items, `failed` of which failed."""
        self.done += done
        self.failed += failed
        self._show()

    def _show(self) -> None:
        """Nothing here: a silent run only counts."""

    def text(self) -> str:
        """One line: how far, how fast, how long still, how many failures."""
        left = (self.total - self.done) / self.rate if self.done else 0.0
        failed = f", {self.failed:,} failed" if self.failed else ""
        return (
            f"{self._what}: {self.done:,} of {self.total:,} {self._unit}, {self.rate:,.1f} {self._unit}/s, "
            f"{left:,.0f} s left{failed}"
        )


class PlainProgress(Progress):
    """A line now and then, for logs."""

    def _show(self) -> None:
        now = time.monotonic()
        if now - self._shown >= PLAIN_INTERVAL_S or self.done >= self.total:
            self._shown = now
            print(self.text(), file=sys.stderr, flush=True)


class BarProgress(Progress):
    """A live bar, for terminals."""

    def __init__(self, total: int, what: str, unit: str, bar: "Bar") -> None:
        super().__init__(total, what, unit)
        self._bar = bar
        self._task: TaskID = bar.add_task(what, total=total, rate="", failures="")

    def _show(self) -> None:
        failures = f"[red]{self.failed:,} failed" if self.failed else ""
        rate = f"{self.rate:,.1f} {self._unit}/s"
        self._bar.update(self._task, completed=self.done, rate=rate, failures=failures)


def tell(notes: Iterable[str], *, shown: bool) -> None:
    """Say facts that the user has to know, a line each, before the work that they are about."""
    if shown:
        for note in notes:
            print(f"note: {note}", file=sys.stderr, flush=True)


@contextmanager
def track(total: int, what: str, *, unit: str = "images", shown: bool = True) -> Iterator[Progress]:
    """Show the progress of `total` items while the block runs.

    Args:
        total: how many items there are.
        what: what is being done, in a word or two.
        unit: what the items are called.
        shown: False counts silently (the library's default).

    Yields:
        A counter; call `advance` on it.
    """
    if not shown:
        yield Progress(total, what, unit)
    elif sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[failures]}"),
        )
        with Bar(*columns, console=Console(stderr=True)) as bar:
            yield BarProgress(total, what, unit, bar)
    else:
        yield PlainProgress(total, what, unit)
