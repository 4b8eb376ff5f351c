"""Settings of a head that are one of a few words."""

from tle.errors import UsageError
from tle.heads.params import Params

DEVICES = ("cpu", "cuda")


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


def device_of(params: Params) -> str:
    """The `device` that was given, or the cpu.

    Raises:
        UsageError: another word, or a device that is not there.
    """
    name = one_of(params, "device", DEVICES)
    check_device(name, f"parameter device of head {params.head}")
    return name


def check_device(name: str, setting: str) -> None:
    """Raise a UsageError that names the setting if the device is cuda and there is none; the cpu loads no torch."""
    if name != "cuda":
        return
    import torch

    if not torch.cuda.is_available():
        raise UsageError(f"{setting} is cuda, but torch finds no CUDA device: take device=cpu")
