"""A quick version of `python -m tle.benchmarks.crash`: 25 of its 200 kills."""

import pytest

from tle.benchmarks.crash import Campaign


@pytest.mark.timeout(600)
def test_25_runs_killed_at_random_moments(tmp_path):
    campaign = Campaign(tmp_path, n_pictures=120, seed=1)
    campaign.run(25)
    assert sum(campaign.kills.values()) == 25
    assert len(campaign.kills) > 3  # of different phases
    assert campaign.opened > 5
    assert campaign.completed > 2
