"""Two processes that `torchrun` starts are one process with twice the batch."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tle.bundle import read_bundle
from tle.errors import UsageError
from tle.finetuning.processes import Processes, joined

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--no-python", "tle", "finetune"]
COMMAND = [
    "photos", "-o", "two.tle", "--init", "none", "--backbone", "tinynet:make", "--resize", "28", "--crop", "24",
    "--optimizer", "sgd", "--device", "cpu", "--workers", "1", "--freeze", "stem", "--warmup", "0",
    "--lr", "0.05", "--keep", "last", "--batch-size", "16", "--json",
]  # fmt: skip


# A network whose second process gets a real SIGINT in the middle of a step.
STOPPING = """
import os
import signal

from tinynet import Net


class Stopping(Net):
    left = int(os.environ.get("STOP_IN_STEP", "0"))

    def forward(self, x):
        if self.training and os.environ.get("RANK") == "1":
            Stopping.left -= 1
            if Stopping.left == 0:
                signal.raise_signal(signal.SIGINT)
        return super().forward(x)


def make():
    return Stopping(0.3)
"""


@pytest.fixture
def environment(network_folder):
    return {**os.environ, "PYTHONPATH": str(network_folder), "OMP_NUM_THREADS": "1"}


def damage(file):
    file.write_bytes(file.read_bytes()[:400])


def test_two_processes_train_as_one_with_twice_the_batch(train, photos, environment, start_of):
    """21 pictures, two of them bad, over 2 x 16 places: batches of unlike size, and failures in both processes."""
    files = sorted((photos / "train").rglob("*.jpg")) + sorted((photos / "val").rglob("*.jpg"))
    bad = [files[3], files[4], files[21], files[22]]
    for file in bad:
        damage(file)
    run = subprocess.run(
        [*TORCHRUN, *COMMAND, "--epochs", "2"],
        env=environment,
        check=False,
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert run.returncode == 0, run.stderr
    told = json.loads(run.stdout)  # one document: the other process is silent
    options = {"freeze": ("stem",), "warmup": "0", "lr": 0.05, "keep": "last", "batch_size": 32}
    alone = train("one.tle", **options)
    assert set(told["failures"]) == set(alone.failures) == {str(file.relative_to(photos)) for file in bad}
    assert run.stderr.count("epoch 1 of 2") == 1
    one, two = read_bundle("one.tle"), read_bundle("two.tle")
    for ours, theirs in ((two.state, one.state), (two.head.arrays(), one.head.arrays())):
        assert ours.keys() == theirs.keys()
        for name, array in ours.items():
            np.testing.assert_allclose(array, theirs[name], rtol=0, atol=1e-6, err_msg=name)
    start = start_of()
    np.testing.assert_array_equal(two.state["stem.0.weight"], start["stem.0.weight"])
    assert np.abs(two.state["high.0.weight"] - start["high.0.weight"]).max() > 1e-4
    np.testing.assert_array_equal(two.arrays["lr"], one.arrays["lr"])
    for ours, theirs in zip(two.training["history"], one.training["history"], strict=True):
        for name in ("step", "train_loss", "val_loss", "val_accuracy"):
            assert ours.get(name) == pytest.approx(theirs.get(name), abs=1e-5)


def test_a_signal_to_one_process_stops_all_of_them_after_the_same_step(photos, environment):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {**environment, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    command = [sys.executable, "-m", "tle.cli.main", "finetune", *COMMAND, "--epochs", "100000", "--bn", "train"]
    first, second = (
        subprocess.Popen(
            command, env={**shared, "RANK": rank}, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for rank in "01"
    )
    lines = []
    for line in first.stderr:
        lines.append(line)
        if "epoch 2 of" in line:
            second.send_signal(signal.SIGINT)
            break
    told = [process.communicate(timeout=60) for process in (first, second)]
    assert [process.returncode for process in (first, second)] == [130, 130], told
    ends = [err.splitlines()[-1] for _, err in told]
    assert ends[0] == ends[1]
    assert ends[0].startswith("tle: interrupted; the same command goes on at step ")
    assert [out for out, _ in told] == ["", ""]
    assert "Traceback" not in told[0][1] + told[1][1]


def test_two_processes_that_were_stopped_end_bit_for_bit_as_two_that_were_not(
    photos, environment, tmp_path, assert_same
):
    """Dropout, trained BatchNorm, mixup, moments and a moving average, stopped in step 7 of 15, the second of epoch 2."""
    (tmp_path / "stopping.py").write_text(STOPPING)
    environment["PYTHONPATH"] += f"{os.pathsep}{tmp_path}"
    arguments = [
        "photos", "--init", "none", "--backbone", "stopping:make", "--resize", "28", "--crop", "24", "--device", "cpu",
        "--workers", "1", "--batch-size", "2", "--epochs", "3", "--bn", "train", "--mixup", "0.4", "--ema", "0.9",
        "--lr", "1e-3", "--keep", "last",
    ]  # fmt: skip

    def run(output, stop=0):
        return subprocess.run(
            [*TORCHRUN, *arguments, "-o", output],
            env={**environment, "STOP_IN_STEP": str(stop)},
            check=False,
            capture_output=True,
            text=True,
            timeout=100,
        )

    whole, stopped = run("whole.tle"), run("parts.tle", stop=7)
    assert whole.returncode == 0, whole.stderr
    assert stopped.returncode != 0
    assert "the same command goes on at step 7 (parts.tle.checkpoint has it)" in stopped.stderr
    assert not Path("parts.tle").exists()
    rest = run("parts.tle")
    assert rest.returncode == 0, rest.stderr
    assert "going on from parts.tle.checkpoint: step 7, epoch 2" in rest.stderr
    assert [row["step"] for row in read_bundle("parts.tle").training["history"]] == [0, 5, 10, 15]
    assert_same("whole.tle", "parts.tle")


def test_one_process_needs_no_others():
    processes = Processes()
    assert processes.first
    assert processes.totals(2, True) == [2.0, 1.0]
    assert processes.gather({"a": 1}) == [{"a": 1}]
    processes.barrier()


def test_a_world_without_a_rank_is_one_line(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(UsageError, match="start them with torchrun, or unset it"), joined("cpu"):
        pass
