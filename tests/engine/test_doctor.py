from importlib import metadata

from tle import doctor


def test_what_is_needed_and_what_is_optional_is_looked_at():
    found = {item.what: item for item in doctor.examine()}
    assert {"tle", "python", "cores", "CUDA", "onnxruntime", *doctor.REQUIRED, *doctor.OPTIONAL} <= set(found)
    assert found["torch"].found == metadata.version("torch")
    assert all(item.state in ("ok", "missing") for item in found.values())


def test_a_missing_package_is_a_finding_with_the_way_to_get_it(monkeypatch):
    monkeypatch.setattr(doctor, "REQUIRED", (*doctor.REQUIRED, "no-such-package"))
    found = {item.what: item for item in doctor.examine()}
    assert found["no-such-package"].state == "missing"
    assert "pip install no-such-package" in found["no-such-package"].found
