"""The one writer of a cache: see `tle.cache.layout` for the file, `tle.cache.claim` for its names.

Rows go to their place with `pwrite` (measured: 4.0 GB/s against 0.6 GB/s for chunked appends through h5py). That they are
there is written down later, after a sync: DONE means durable. So a crash, of the process or of the machine, costs the
rows of the last seconds and nothing else.

# N images, D feature dim, B rows at a time
"""

import os
import threading
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from tle.cache.claim import Claim
from tle.cache.failures import add_failures
from tle.cache.layout import Content, Slot
from tle.cache.overlay import Overlay
from tle.cache.rows import RowFile, write_layout
from tle.enums import Status
from tle.errors import CacheError, OutputError, ShapeError, one_line
from tle.files import FILE_DTYPE, check_output, sync_data, sync_folder

if TYPE_CHECKING:
    from tle.cache.reader import Cache
    from tle.pipeline import Batch

# Between syncs, whichever comes first: what a crash may cost, and what the last sync has to wait for.
SYNC_INTERVAL_S = 1.0
SYNC_BYTES = 1 << 26
_FLOAT16_MAX = 65504
_CARRY_BYTES = 1 << 24
_Rows = tuple[NDArray[np.int64], int]  # some rows, and their status


class CacheWriter:
    """The one writer of a cache. Use as a context manager; call `finish` to publish.

    Rows may come in any order and from any thread. Leaving the context without `finish` keeps the rows that were
    written in `path.part`, for `resume`; an unfinished file without any is removed.

    Attributes:
        path: the cache.
        dim: feature dimension D.
        dtype: storage type of the features.
        status: (N,) values of `Status`: what is in the file; rows since the last sync are missing.
        failures: reasons of the rows that failed.
        resumed: whether it goes on with an unfinished file in place.
        keep: whether the unfinished file is kept where the context is left without `finish`.
    """

    def __init__(self, claim: Claim, fd: int, slots: Mapping[str, Slot], *, settled: bool) -> None:
        """Use `create` or `resume`."""
        self.path = claim.path
        self._claim, self._settled = claim, settled
        self._file = RowFile(claim.part, fd, slots)
        features = slots["features"]
        self.dim, self.dtype = features.shape[1], features.dtype
        self.status = np.zeros(features.shape[0], np.uint8)
        self.failures: dict[int, str] = {}
        self.resumed = settled
        self.keep, self._finished, self._sync_failed = True, False, False
        self._uncommitted: list[_Rows] = []
        self._unsynced_bytes, self._synced = 0, time.monotonic()
        self._lock = threading.Lock()  # of everything but the sync itself, beside which rows can be written
        self._pool = ThreadPoolExecutor(1, "tle-sync")
        self._syncing: Future[None] | None = None

    @classmethod
    def create(cls, path: Path, content: Content, *, claim: Claim | None = None) -> Self:
        """Lay out a new unfinished file, with all its space reserved.

        An unfinished file that is there stays until the first row is written or the new one is finished: its rows can be
        taken over with `carry`.

        Args:
            path: the cache to be published by `finish`.
            content: what is known of it.
            claim: the right to write it, where the caller has it; the writer releases it.

        Raises:
            OutputError: another process writes it, or it cannot be created (folder, permission, space).
        """
        claim = claim or Claim(path)
        try:
            fd = claim.take_over()
            slots = write_layout(fd, content)
        except BaseException as error:
            claim.release()
            if isinstance(error, OSError) and not isinstance(error, OutputError):
                raise OutputError(f"cannot create {claim.part}: {one_line(error)}") from error
            raise
        return cls(claim, fd, slots, settled=False)

    @classmethod
    def resume(cls, claim: Claim, unfinished: "Cache") -> Self:
        """Go on with the unfinished file of `claim`.

        Args:
            claim: the right to write it; the writer releases it.
            unfinished: that file, opened with `tle.cache.reader.open_unfinished`.
        """
        writer = cls(claim, claim.fd, unfinished.slots, settled=True)
        writer.status[:] = unfinished.status
        writer.failures = dict(unfinished.reasons)
        writer._file.journal.skip(claim.fd)
        return writer

    @property
    def part(self) -> Path:
        """The unfinished file."""
        return self._claim.part

    @property
    def pending(self) -> NDArray[np.int64]:
        """Rows that are neither done nor failed, ascending."""
        return np.flatnonzero(self.status == Status.PENDING)

    def write(
        self,
        indices: NDArray[np.int64],
        features_BD: NDArray[np.float32],
        digests_B: NDArray[np.uint64],
        files_B: NDArray[Any] | None = None,
    ) -> None:
        """Write the rows of B good images.

        Args:
            indices: (B,) row numbers.
            features_BD: (B, D) float32, finite.
            digests_B: (B,) uint64.
            files_B: (B,) sizes and modification times as `FILE_DTYPE`; None where they are not known.

        Raises:
            ShapeError: the features are not (B, D).
            CacheError: a value is beyond float16 where that is the storage type.
            OutputError: the file system refused the write.
        """
        files = np.zeros(len(indices), FILE_DTYPE) if files_B is None else files_B
        with self._lock:
            self._begin()
            self._uncommitted += self._put(indices, features_BD, digests_B, files)

    def fail(self, index: int, reason: str, digest: int, file: "np.void | None" = None) -> None:
        """Record an image as failed.

        Args:
            index: its row.
            reason: one line.
            digest: xxh3-64 of its bytes, 0 where they could not be read.
            file: its size and modification time, a `FILE_DTYPE`; None where they are not known.

        Raises:
            OutputError: the file system refused the write.
        """
        with self._lock:
            self._begin()
            self._uncommitted += self._put_failure(index, reason, digest, file)

    def add(self, batch: "Batch", files_N: NDArray[Any] | None = None) -> None:
        """Write a batch with its failures; all of it is committed together.

        Args:
            batch: what the pipeline made.
            files_N: sizes and modification times of all images, as `FILE_DTYPE`; None where they are not known.

        Raises:
            ShapeError, CacheError, OutputError: as `write` does.
        """
        files = np.zeros(len(self.status), FILE_DTYPE) if files_N is None else files_N
        with self._lock:
            self._begin()
            rows = []
            for failure in batch.failures:
                rows += self._put_failure(failure.index, failure.reason, failure.digest, files[failure.index])
            rows += self._put(batch.indices, batch.features, batch.digests, files[batch.indices])
            self._uncommitted += rows

    def carry(self, cache: "Cache", old: NDArray[np.int64], new: NDArray[np.int64], files: NDArray[Any]) -> None:
        """Take over rows of another cache, as they are; those of the unfinished file that is replaced among them.

        Args:
            cache: of the same dimension and storage type; may be an unfinished one.
            old: (n,) its rows, which are DONE or FAILED.
            new: (n,) the rows that they become.
            files: (n,) sizes and modification times of their images now, as `FILE_DTYPE`.

        Raises:
            CacheError: a row is neither done nor failed.
            OutputError: the file system refused.
        """
        done = cache.status[old] == Status.DONE
        if (cache.status[old][~done] != Status.FAILED).any():
            raise CacheError(f"{cache.path} changed while its rows were taken over: try again")
        step = max(1, _CARRY_BYTES // (self.dim * self.dtype.itemsize))
        with self._lock:
            for start in range(0, int(done.sum()), step):
                rows, places = old[done][start : start + step], new[done][start : start + step]
                self._unsynced_bytes += self._file.put_done(
                    places, cache.gather(rows), cache.digests[rows], files[done][start : start + step]
                )
                self._uncommitted.append((places, Status.DONE))
            reasons = cache.reasons
            for row, place, file in zip(old[~done].tolist(), new[~done].tolist(), files[~done], strict=True):
                reason = reasons.get(row, "not recorded")
                self._uncommitted += self._put_failure(place, reason, int(cache.digests[row]), file)

    def reset(self, indices: NDArray[np.int64]) -> None:
        """Make rows of the unfinished file pending again, at once."""
        with self._lock:
            self.status[indices] = Status.PENDING
            for index in indices.tolist():
                self.failures.pop(index, None)
            self._file.put_status(self.status, indices)

    def checkpoint(self) -> None:
        """Begin a `commit` in the background, if the last was long enough or enough rows ago.

        Raises:
            OutputError: the one before failed.
        """
        due = time.monotonic() - self._synced >= SYNC_INTERVAL_S or self._unsynced_bytes >= SYNC_BYTES
        if not due or (self._syncing is not None and not self._syncing.done()):
            return
        self._wait()
        with self._lock:
            self._begin()
            self._file.fd = self._claim.keep_in_place()
            rows, self._uncommitted = self._uncommitted, []
            self._unsynced_bytes, self._synced = 0, time.monotonic()
            self._syncing = self._pool.submit(self._make_durable, rows)

    def commit(self) -> None:
        """Make durable what was written, then write down that it is there.

        Raises:
            OutputError: the file system refused, or the unfinished file was replaced by another.
        """
        self._wait()
        with self._lock:
            self._commit()

    def finish(self, *, replace: bool) -> Path:
        """Add the list of failures, make everything durable, and publish the file under its final name.

        Args:
            replace: whether a file that took the name in the meantime may be replaced.

        Returns:
            The path of the finished cache.

        Raises:
            CacheError: a row was neither written nor failed.
            OutputError: the file system refused, or the name was taken meanwhile.
        """
        self.commit()
        fd = self._file.fd
        if len(self.pending):
            raise CacheError(f"{len(self.pending)} of {len(self.status)} rows were never written to {self._claim.part}")
        try:
            check_output(self.path, overwrite=replace)
            self._add_failures(fd)
            self._claim.part.replace(self.path)
            self._finished = True
            sync_folder(self.path.absolute().parent)
        except OSError as error:
            if isinstance(error, OutputError):
                raise
            raise OutputError(f"cannot finish {self.path}: {one_line(error)}") from error
        self._release()
        return self.path

    def _add_failures(self, fd: int) -> None:
        """Let HDF5 say what `/failures` looks like, and write that in an order that keeps the file readable."""
        overlay = Overlay(fd)
        add_failures(overlay, self.failures)
        if overlay.changed_pages():
            overlay.apply(fd, lambda: sync_data(fd))
        os.ftruncate(fd, overlay.size)  # the journal has done its duty
        os.fsync(fd)

    def _put(
        self,
        indices: NDArray[np.int64],
        features_BD: NDArray[np.float32],
        digests_B: NDArray[np.uint64],
        files_B: NDArray[Any],
    ) -> list[_Rows]:
        """Write everything of some good rows but their status, which is given back and waits for the next sync."""
        if not len(indices):
            return []
        if features_BD.shape != (len(indices), self.dim):
            raise ShapeError(f"expected features ({len(indices)}, {self.dim}), got {features_BD.shape}")
        # Looked for before the cast: float16 would turn anything beyond 65,504 into inf without a word.
        if self.dtype == np.float16 and (peak := float(np.abs(features_BD).max())) > _FLOAT16_MAX:
            raise CacheError(
                f"a feature of magnitude {peak:.6g} does not fit float16 (65,504 at most): extract with --dtype float32 "
                "--overwrite"
            )
        rows = np.ascontiguousarray(features_BD, dtype=self.dtype)
        self._unsynced_bytes += self._file.put_done(indices, rows, digests_B.astype(np.uint64, copy=False), files_B)
        return [(indices, Status.DONE)]

    def _put_failure(self, index: int, reason: str, digest: int, file: "np.void | None") -> list[_Rows]:
        """The same for a bad row."""
        self._file.put_failed(index, reason, digest, np.zeros(1, FILE_DTYPE)[0] if file is None else file)
        self.failures[index] = reason
        return [(np.array([index]), Status.FAILED)]

    def _make_durable(self, rows: list[_Rows]) -> None:
        """Sync, then write down the status of rows that were written before."""
        self._sync()
        try:
            with self._lock:
                self._write_status(rows)
        except OutputError:
            with self._lock:
                self._uncommitted = rows + self._uncommitted  # durable: only that is still to be said
            raise

    def _sync(self) -> None:
        """Make durable what was written.

        A sync that failed is not tried again: the kernel may have dropped the data, and says so once. So nothing that was
        written since the one before is believed, and all of it stays pending.
        """
        try:
            self._file.sync()
        except OutputError:
            self._sync_failed = True
            raise

    def _wait(self) -> None:
        """For the sync in the background; its error is raised here."""
        if self._syncing is not None:
            syncing, self._syncing = self._syncing, None
            syncing.result()

    def _commit(self) -> None:
        if self._settled:
            self._file.fd = self._claim.keep_in_place()
        if self._uncommitted:
            self._sync()
            self._write_status(self._uncommitted)
            self._uncommitted = []
        self._settle()
        self._unsynced_bytes, self._synced = 0, time.monotonic()

    def _write_status(self, rows: list[_Rows]) -> None:
        """All in one call: batches are there whole or not at all."""
        for indices, status in rows:
            self.status[indices] = status
        if rows:
            self._file.put_status(self.status, np.concatenate([indices for indices, _ in rows]))

    def _begin(self) -> None:
        """Before the first row of one's own: what was taken over is in the file, and the file has its name."""
        if not self._settled:
            self._commit()

    def _settle(self) -> None:
        """Give the new file the name of the unfinished one: from now on it is worth keeping."""
        if self._settled:
            return
        try:
            sync_data(self._file.fd)
            self._claim.settle(self._file.fd)
            sync_folder(self.path.absolute().parent)
        except OSError as error:
            raise OutputError(f"cannot create {self._claim.part}: {one_line(error)}") from error
        self._settled = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self._settled and not self._finished and not self._sync_failed:
                self.commit()
        finally:
            self._release()

    def _release(self) -> None:
        """Let everything go; a published cache is not locked, since nobody writes it any more."""
        self._pool.shutdown()
        worth_it = self.keep and bool((self.status != Status.PENDING).any())
        self._claim.release(keep=worth_it or self._finished or not self._settled)
