import os
import subprocess
import sys
import threading

import pytest
import torch

from tle.threads import one_torch_thread, torch_threads_kept

# The pipeline and the sample in a process of their own, as the variables count only while torch is loaded.
PIPELINE = """
import sys
import numpy as np
import torch
from tle.images import EXACT_DECODER
from tle.pipeline import Decoding, run
from tle.preprocess import Preprocess
from tle.runtimes.plan import Plan
from tle.sources import open_source
from tle.tuning.trial import measure

seen = set()

class Means:
    description, device, batch = "means", "cpu", None

    def __call__(self, pixels):
        seen.add(torch.get_num_threads())
        return pixels.mean((1, 2)).astype(np.float32)

preprocess = Preprocess(resize=16, crop=(16, 16), interpolation="bilinear", mean=(0, 0, 0), std=(1, 1, 1))
decoding = Decoding(preprocess=preprocess, decoder=EXACT_DECODER, max_pixels=10**6)
before = torch.get_num_threads()
list(run(open_source(sys.argv[1]), Means(), decoding, batch_size=1, dim=3, workers=3))
measure(Means(), np.zeros((6, 16, 16, 3), np.uint8), Plan(runtime="torch", precision="float32", replicas=2))
print(seen, torch.get_num_threads() == before)
"""


def test_what_the_environment_says_makes_no_difference(tmp_path, make_images):
    make_images(tmp_path / "photos", ["cat", "dog"], 4, 24)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", PIPELINE, str(tmp_path / "photos")],
        env=os.environ | {"OMP_NUM_THREADS": "8", "MKL_NUM_THREADS": "8"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("{1} True\n", "")


@pytest.mark.parametrize("fails", [False, True])
def test_the_number_of_threads_comes_back(fails):
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with pytest.raises(ZeroDivisionError) if fails else torch.no_grad(), torch_threads_kept():
            thread = threading.Thread(target=one_torch_thread)
            thread.start()
            thread.join()
            one_torch_thread()
            assert torch.get_num_threads() == 1
            if fails:
                raise ZeroDivisionError
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
