"""The list of failures of a file whose rows are all known."""

from collections.abc import Mapping

import h5py

from tle.cache.layout import failure_rows
from tle.cache.overlay import Overlay


def add_failures(overlay: Overlay, failures: Mapping[int, str]) -> None:
    """Let HDF5 say what `/failures` looks like with all of them; nothing is written yet.

    Args:
        overlay: of a file that was laid out with `tle.cache.layout.lay_out`, whose list is still empty.
        failures: reasons by row.
    """
    with h5py.File(overlay, "r+") as h5:
        h5["failures"].resize((len(failures),))
        h5["failures"][:] = failure_rows(failures)
