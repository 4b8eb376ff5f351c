"""A few seconds of `tle.benchmarks.fuzz_cache`, in processes of their own so that a crash is seen."""

import collections
import multiprocessing
import os
import random
import signal
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tle.benchmarks import cache_damage, fuzz_cache
from tle.cache import open_cache
from tle.errors import CacheError, TleError


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    """Good caches of every kind, in a folder where the parts of the merged one are."""
    folder = tmp_path_factory.mktemp("samples")
    return folder, cache_damage.write_samples(folder)


def test_damaged_caches_are_answered_in_one_line(tmp_path):
    counts = collections.Counter()
    for case, _, outcome in fuzz_cache.run(tmp_path, seconds=60, cases=600, seed=1, with_commands=False):
        assert not outcome.bad, (case, outcome)
        counts[outcome.name] += 1
    assert counts["opened"] > 20
    assert counts["refused"] > 200


def test_damaged_caches_in_every_command(tmp_path, monkeypatch):
    monkeypatch.setattr(fuzz_cache, "LIMIT_S", 60.0)  # timing decides nothing here
    found = [outcome for _, _, outcome in fuzz_cache.run(tmp_path, seconds=90, cases=60, seed=2)]
    assert [outcome for outcome in found if outcome.bad] == []
    assert {"opened", "refused"} == {outcome.name for outcome in found}


def crash(_path):
    os.kill(os.getpid(), signal.SIGKILL)


def hang(_path):
    time.sleep(60)


def trip(_path):
    raise IndexError


def chat(_path):
    raise CacheError("two\nlines")


@pytest.mark.parametrize(
    ("reading", "name"), [(crash, "crashed"), (hang, "hung"), (trip, "traceback"), (chat, "lines")]
)
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_what_is_looked_for_is_seen(tmp_path, monkeypatch, reading, name):
    forked = multiprocessing.get_context("fork")  # so that workers have the same function
    monkeypatch.setattr(fuzz_cache.multiprocessing, "get_context", lambda _method: forked)
    monkeypatch.setattr(fuzz_cache, "read_all", reading)
    monkeypatch.setattr(fuzz_cache, "LIMIT_S", 0.5)
    outcomes = [outcome for _, _, outcome in fuzz_cache.run(tmp_path, cases=2, with_commands=False)]
    assert [outcome.name for outcome in outcomes] == [name] * 2
    assert all(outcome.bad for outcome in outcomes)


@settings(max_examples=300, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_forged_numbers_of_metadata(samples, data):
    """Whatever stands in a block whose checksum is right; hypothesis makes what it finds small."""
    folder, goods = samples
    good = data.draw(st.sampled_from(goods))
    forged = bytearray(good.data)
    for _ in range(data.draw(st.integers(1, 3))):
        block = data.draw(st.sampled_from(good.blocks))
        at = block.start + data.draw(st.integers(0, block.length - 1))
        new = data.draw(st.binary(min_size=1, max_size=8))
        forged[at : at + len(new)] = new
    cache_damage.reseal(forged, good.blocks)
    path = folder / "forged.h5"
    path.write_bytes(forged)
    try:
        fuzz_cache.read_all(path)
    except TleError as error:
        assert len(str(error).splitlines()) == 1  # noqa: PT017 - it may just as well be opened


def test_forging_gets_past_the_checksums(samples):
    """Otherwise the fuzz would stop at the door: most of what it forges has to be refused for what it says."""
    folder, goods = samples
    said = []
    for seed in range(200):
        (folder / "forged.h5").write_bytes(cache_damage.mutate(goods[0], "forge", random.Random(seed)))
        try:
            open_cache(folder / "forged.h5")
            said.append("opened")
        except CacheError as error:
            said.append(str(error))
    assert sum("checksum" in line for line in said) < 40
    assert len({line.split("forged.h5")[-1][:30] for line in said}) > 20
