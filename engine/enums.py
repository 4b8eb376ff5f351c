"""The small vocabularies that files on disk and arrays in memory share."""

from enum import IntEnum, StrEnum


class Split(IntEnum):
    """Which part of the experiment a picture belongs to, as stored in `/splits` (uint8)."""

    NONE = 0
    TRAIN = 1
    VAL = 2
    TEST = 3


class Status(IntEnum):
    """State of one feature row, as stored in `/status` (uint8); a row is defined only when DONE."""

    PENDING = 0
    DONE = 1
    FAILED = 2


class Target(StrEnum):
    """What the labels are, and so their array.

    CLASS: (N,) int64 class indices, -1 unlabelled. MULTILABEL: (N, C) uint8 indicators, a row of 255 unlabelled.
    REGRESSION: (N,) float32 values, NaN unlabelled. NONE: no labels at all, stored as (N,) int64 of -1.
    """

    CLASS = "class"
    MULTILABEL = "multilabel"
    REGRESSION = "regression"
    NONE = "none"
