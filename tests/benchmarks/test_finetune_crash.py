"""A quick version of `python -m tle.benchmarks.finetune_crash`: 4 of its 20 kills."""

import multiprocessing

import pytest

from tle.benchmarks.finetune_crash import Campaign, content, finetune_quietly


@pytest.mark.timeout(600)
def test_fine_tunings_killed_at_random_moments_end_with_the_same_weights(tmp_path):
    campaign = Campaign(tmp_path, n_pictures=48, seed=0)
    campaign.run(4)
    assert sum(campaign.kills.values()) == 4
    assert campaign.resumed > 0
    assert campaign.completed > 0

    arguments = (str(tmp_path / "images"), "--init", str(tmp_path / "start.head"), "-o", str(tmp_path / "other.tle"))
    other = multiprocessing.get_context("forkserver").Process(
        target=finetune_quietly,
        args=((*arguments, "--epochs", "1", "-b", "8", "--keep", "last"), tmp_path / "other.log"),
    )
    other.start()
    other.join()
    assert other.exitcode == 0
    found, expected = content(tmp_path / "other.tle"), content(tmp_path / "undisturbed-0.tle")
    for name in ("head/weight", "backbone/0.weight", "array/lr", "training"):
        assert found[name] != expected[name]  # the comparison sees other weights
