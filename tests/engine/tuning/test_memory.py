import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tle.runtimes.plan import Plan
from tle.tuning.memory import ChoiceMemory, cache_folder
from tle.tuning.parity import Parity
from tle.tuning.trial import Trial

PLAN = Plan(runtime="openvino", precision="bfloat16", batch_size=8, replicas=2)
PARITY = Parity(n=32, min_cosine=0.9999, mean_cosine=0.9999, centred_min_cosine=0.999, neighbour_agreement=1.0)
# A writer of its own process: no torch, so it starts at once.
WRITER = """
import sys
from tle.backbones.backbone import Backbone
from tle.preprocess import Preprocess
from tle.runtimes.plan import Plan
from tle.tuning.memory import ChoiceMemory
from tle.tuning.trial import Trial
preprocess = Preprocess(resize=16, crop=(16, 16), interpolation="bilinear", mean=(0, 0, 0), std=(1, 1, 1))
for number in range(40):
    backbone = Backbone(name=sys.argv[1], weights="none", weights_digest=str(number), layer="", pool="", dim=3,
                        preprocess=preprocess)
    memory = ChoiceMemory(backbone, device="cpu", replicas=2)
    memory.save([Trial(plan=Plan(runtime="torch", precision="float32"), setup_s=0.1, images_per_s=number + 1)])
    assert memory.notes == (), memory.notes
print("torch" in sys.modules)
"""


def trial(rate, plan=PLAN, **options):
    return Trial(plan=plan, setup_s=1.5, images_per_s=rate, parity=PARITY, **options)


@pytest.fixture
def remember(tiny):
    """remember(backbone=tiny, **where): the memory as another process would open it now."""

    def open_memory(backbone=tiny, device="cpu", replicas=2):
        return ChoiceMemory(backbone, device=device, replicas=replicas)

    return open_memory


def test_nothing_is_known_at_first_and_nothing_written(remember):
    memory = remember()
    assert memory.find(PLAN) is None
    memory.save([])
    assert memory.notes == ()
    assert not list(cache_folder().iterdir())


def test_what_was_measured_is_found_again(remember):
    memory = remember()
    memory.save([trial(123.456)])
    for known in (memory, remember()):
        found = known.find(replace(PLAN, batch_size=3))
        assert (found.images_per_s, found.setup_s, found.refused) == (123.46, 1.5, None)
        assert found.plan == PLAN  # at the batch size that it was measured with
        assert found.parity is None  # depends on the pictures
    assert remember().find(replace(PLAN, precision="float32")) is None
    assert remember().find(replace(PLAN, runtime="torch")) is None


@pytest.mark.parametrize("order", [[4, 8, 16], [16, 8, 4], [8, 16, 4]])
def test_the_better_batch_size_stays(remember, order):
    rates = {4: 50.0, 8: 70.0, 16: 60.0}
    remember().save([trial(rates[size], replace(PLAN, batch_size=size)) for size in order])
    found = remember().find(PLAN)
    assert (found.plan.batch_size, found.images_per_s) == (8, 70)


def test_what_is_measured_again_takes_the_place_of_what_was_known(remember):
    """One lucky rate must not decide for ever."""
    remember().save([trial(500, replace(PLAN, batch_size=4)), trial(50, replace(PLAN, runtime="torch"))])
    remember().save([trial(80)])
    found = remember().find(PLAN)
    assert (found.plan.batch_size, found.images_per_s) == (8, 80)
    assert remember().find(replace(PLAN, runtime="torch")).images_per_s == 50  # was not measured again


def test_another_machine_network_or_size_starts_anew(remember, tiny):
    remember().save([trial(100)])
    assert remember().find(PLAN)
    larger = replace(tiny, preprocess=tiny.preprocess.replace(crop=(20, 20)))
    for other in (
        remember(replicas=1),
        remember(replace(tiny, weights_digest="0" * 32)),
        remember(replace(tiny, layer="0")),
        remember(replace(tiny, name="own:Other")),
        remember(larger),
    ):
        assert other.find(PLAN) is None
    remember(larger).save([trial(7)])
    assert remember().find(PLAN).images_per_s == 100  # each its own


def test_neither_what_did_not_run_nor_what_was_too_far_is_held_against_a_plan(remember):
    failed = Trial(plan=PLAN, setup_s=0.0, images_per_s=0.0, refused="no compiler")
    remember().save([failed, trial(80, replace(PLAN, runtime="torch"), refused="below --min-cosine")])
    assert remember().find(PLAN) is None  # a compiler may be there by now
    assert remember().find(replace(PLAN, runtime="torch")).refused is None  # on other pictures
    remember().save([trial(90), replace(failed, plan=replace(PLAN, batch_size=16))])
    assert remember().find(PLAN).images_per_s == 90


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff\xfe\x00",
        b"[]",
        b"null",
        b'{"format": 1}',
        b'{"format": 1, "choices": []}',
        b'{"format": 1, "choices": {"x": 3}}',
        b'{"format": 1, "choices": {"x": {"trials": {"y": {}}}}}',
        b'{"format": 1, "choices": {"x": {"trials": {"y": {"setup_s": "soon"}}}}}',
        b'{"format": 1, "choices": {"x": {"trials": {"y": {"setup_s": 1, "images_per_s": 0, "batch_size": 8}}}}}',
    ],
)
def test_a_damaged_file_is_a_note_and_is_replaced(remember, content):
    path = cache_folder() / "choices.json"
    path.write_bytes(content)
    memory = remember()
    assert memory.find(PLAN) is None
    assert len(memory.notes) == 1
    assert "cannot be read" in memory.notes[0]
    assert "\n" not in memory.notes[0]
    memory.save([trial(100)])
    assert remember().find(PLAN).images_per_s == 100
    assert remember().notes == ()


def test_a_file_of_another_version_is_passed_over(remember):
    (cache_folder() / "choices.json").write_text('{"format": 2, "choices": "who knows"}')
    assert remember().find(PLAN) is None
    assert remember().notes == ()


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="no /proc, where not even root may write")
@pytest.mark.parametrize("folder", ["/proc/tle", "/dev/null/tle"])
def test_a_folder_that_cannot_be_written_is_a_note(remember, monkeypatch, folder):
    monkeypatch.setenv("TLE_CACHE", folder)
    memory = remember()
    memory.save([trial(100)])
    assert "cannot be remembered" in memory.notes[-1]
    assert all("\n" not in note for note in memory.notes)
    assert memory.find(PLAN).images_per_s == 100  # for this run at least


def test_only_the_newest_are_kept(remember):
    path = cache_folder() / "choices.json"
    remember().save([trial(100)])
    content = json.loads(path.read_text())
    [entry] = content["choices"].values()
    content["choices"] |= {f"own:Other {number}": entry for number in range(499)}
    path.write_text(json.dumps(content))
    remember().save([trial(200)])  # the oldest so far, and now the newest
    remember(replicas=3).save([trial(300)])
    kept = list(json.loads(path.read_text())["choices"])
    assert len(kept) == 500
    assert kept[0] == "own:Other 1"
    assert remember().find(PLAN).images_per_s == 200
    assert remember(replicas=3).find(PLAN).images_per_s == 300


def test_several_processes_write_at_once(remember):
    """Each replaces the whole file: one may lose what another has added, but it is always whole."""
    path = cache_folder() / "choices.json"
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, f"own:{name}"], stdout=subprocess.PIPE, text=True)
        for name in "ab"
    ]
    reads = 0
    while any(writer.poll() is None for writer in writers):
        if path.exists():
            assert json.loads(path.read_text())["format"] == 1
            reads += 1
    assert reads
    for writer in writers:
        assert writer.communicate() == ("False\n", None)
        assert writer.returncode == 0
    assert {name.split()[0] for name in json.loads(path.read_text())["choices"]} <= {"own:a", "own:b"}
    assert os.listdir(path.parent) == ["choices.json"]


def test_the_folder_is_the_users_cache_where_none_is_named(monkeypatch, tmp_path):
    monkeypatch.delenv("TLE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "tle"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "tle"
