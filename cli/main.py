"""`tle`: the commands, and how errors leave the process.

Every command is loaded when it is called, so that `tle --help` answers without importing torch.
"""

import os
import signal
import sys
from collections.abc import Sequence
from importlib.metadata import version

from cyclopts import App, CycloptsError, Parameter

from tle.errors import TleError, one_line

COMMANDS = {
    "extract": "Extract the features of every picture, once, into a cache.",
    "fit-head": "Fit a classifier on a cache, in seconds.",
    "evaluate": "Measure a classifier on pictures or a cache that it has not seen.",
    "compare": "Say which backbone to use, from caches of the same pictures.",
    "few-shot": "Say how much a few labelled pictures a class give.",
    "finetune": "Train the backbone as well, slowly, from a fitted head on.",
    "predict": "Classify new pictures.",
    "export": "Turn a classifier into one file: .tle, .onnx or .pt2.",
    "report": "Show what a classifier does on one page.",
    "bench": "Say how fast extraction is here, and what holds it back.",
    "inspect": "Show what a cache or a head holds and where it came from.",
    "verify": "Compare a cache with its checksums, and mark damaged rows for extraction.",
    "merge": "Join caches of one backbone into one.",
    "convert": "Turn a cache into .npy, .npz, .parquet or .safetensors, or such a file into a cache.",
    "layers": "List the layers of a backbone where features can be taken.",
    "doctor": "Show what this machine has, and what is missing.",
    "demo": "Run the whole path on real pictures, offline.",
}
INTERRUPTED = 130

app = App(
    name="tle",
    help="Transfer Learning Engine: a frozen backbone sees every picture once, heads train on the cache in seconds.",
    version=lambda: version("tle"),
    default_parameter=Parameter(negative_iterable=(), negative_bool=()),
    result_action="return_value",
    suppress_keyboard_interrupt=False,  # `main` says so in a line of its own
)
for _name, _help in COMMANDS.items():
    _module = _name.replace("-", "_")
    app.command(f"tle.cli.{_module}:{_module}", name=_name, help=_help)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: what follows `tle`; None takes the process's own.

    Returns:
        The exit code: 0 done, 1 bad data, 2 bad usage, 3 not one picture could be read, 130 interrupted.
    """
    tokens = list(sys.argv[1:] if arguments is None else arguments)
    if arguments is None:  # a batch system's wish to stop is as good as a user's
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        app(tokens, exit_on_error=False, print_error=False)
        sys.stdout.flush()
    except CycloptsError as error:
        command = next((f" {token}" for token in tokens if token in COMMANDS), "")
        print(f"tle: {' '.join(str(error).split())} See tle{command} --help", file=sys.stderr)
        return 2
    except TleError as error:
        print(f"tle: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt as error:
        print(f"tle: interrupted{f'; {error}' if str(error) else ''}", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of our output went away (`| head`): that is its right. Nothing more may be flushed to it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except MemoryError:
        print("tle: not enough memory", file=sys.stderr)
        return 1
    except OSError as error:  # what is left: standard output itself cannot be written
        print(f"tle: {one_line(error)}", file=sys.stderr)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
