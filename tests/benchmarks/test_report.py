from pathlib import Path

import numpy as np
import pytest

from tle.benchmarks import report


def test_cosines_against_their_definition() -> None:
    rng = np.random.default_rng(0)
    x_ND = rng.normal(size=(5, 7)) + 10
    y_ND = x_ND + rng.normal(size=(5, 7))
    found = report.cosines(x_ND, y_ND)
    each = [float(x @ y / np.sqrt(x @ x) / np.sqrt(y @ y)) for x, y in zip(x_ND, y_ND, strict=True)]
    assert found["min"] == pytest.approx(min(each))
    assert found["mean"] == pytest.approx(np.mean(each))
    assert found["centred_min"] < 0.9 < 0.99 < found["min"]  # a common offset hides the difference


def test_ratios_are_paired() -> None:
    figures = {"slow": [1.0, 10.0, 2.0], "fast": [3.0, 20.0, 6.0]}
    assert report.ratios(figures, "slow") == {"slow": 1, "fast": 3}


def test_a_table_is_aligned() -> None:
    assert report.table(("a", "long"), [("1", "2")]).splitlines() == ["| a | long |", "|---|------|", "| 1 | 2    |"]


@pytest.mark.parametrize(
    ("cpu", "expected"),
    [
        ("AMD EPYC", "amd-epyc-2-cores"),
        ("Intel(R) Xeon(R) CPU @ 2.20GHz", "intel-xeon-2-cores"),
        ("AMD EPYC 9654 96-Core Processor", "amd-epyc-9654-96-core-2-cores"),
    ],
)
def test_hardware_in_file_names(cpu: str, expected: str) -> None:
    assert report.slug({"cpu": cpu, "cores": 2}) == expected


def test_nothing_measured_is_overwritten(tmp_path: Path) -> None:
    hardware = {"cpu": "AMD EPYC", "cores": 2}
    first = report.default_path("extract", hardware, tmp_path)
    first.touch()
    second = report.default_path("extract", hardware, tmp_path)
    assert first.name.endswith("_amd-epyc-2-cores_extract.json")
    assert second.name.endswith("_amd-epyc-2-cores_extract-2.json")
