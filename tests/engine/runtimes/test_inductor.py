import logging

import pytest
import torch

from tle.errors import RuntimeChoiceError
from tle.runtimes.plan import Plan
from tle.runtimes.runtime import open_runtime


class Branching(torch.nn.Module):
    def forward(self, x):
        y = x.mean((2, 3))
        return y if y.sum() > 0 else 2 * y


def test_compiled_features_are_those_of_the_reference(tiny, check_runtime, capfd):
    """Compiles two graphs: 3 to 8 s."""
    before = torch.get_num_threads()
    state = {name: tensor.clone() for name, tensor in tiny.module.state_dict().items()}
    runtime = check_runtime(tiny, Plan(runtime="inductor", precision="float32", batch_size=4, replicas=2))
    assert runtime.batch == 4
    assert "inductor" in runtime.description
    assert torch.get_num_threads() == before
    assert all(torch.equal(tensor, state[name]) for name, tensor in tiny.module.state_dict().items())
    check_runtime(tiny, Plan(runtime="inductor", precision="bfloat16", batch_size=3, replicas=1), 0.999)
    assert capfd.readouterr() == ("", "")


def test_a_network_that_cannot_be_compiled_is_one_line(make_backbone, capfd):
    level = logging.getLogger("torch").level
    backbone = make_backbone(Branching(), 3)
    with pytest.raises(RuntimeChoiceError, match="own:Net cannot be compiled .*--runtime torch") as caught:
        open_runtime(backbone, Plan(runtime="inductor", precision="float32"))
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")
    assert logging.getLogger("torch").level == level
