import os
import subprocess
import sys

import pytest


@pytest.fixture(scope="session")
def run_python():
    """run_python(code, *arguments, interpret=False): what a fresh process prints; Triton interpreted, or as it is."""

    def run(code, *arguments, interpret=False):
        environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
        environment |= {"TRITON_INTERPRET": "1"} if interpret else {}
        done = subprocess.run(
            [sys.executable, "-c", code, *map(str, arguments)],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run
