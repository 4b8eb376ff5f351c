"""Settings of a head that are one of a few words."""

from tle.errors import UsageError
from tle.heads.params import Params


def one_of(params: Params, name: str, valid: tuple[str, ...]) -> str:
    """The word that was given, or the first of `valid`.

    Raises:
        UsageError: another word.
    """
    value = params.values.get(name, valid[0])
    value = "none" if value is None else value  # a string `None` is read as Python's
    if not isinstance(value, str) or value not in valid:
        raise UsageError(f"parameter {name} of head {params.head} is {' or '.join(valid)}, got {value!r}")
    return value


def is_standard(params: Params) -> bool:
    """Whether `scaler` asks for standardised features, as it does unless it is `none`."""
    return one_of(params, "scaler", ("standard", "none")) == "standard"
