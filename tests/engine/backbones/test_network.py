import pytest

from tle.backbones.network import require_network
from tle.errors import BackboneError

HOST = "nowhere.invalid"  # reserved: it never resolves


def test_an_unreachable_host_is_one_line_that_helps(monkeypatch):
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(
        BackboneError, match=r"weights W are not here .*nowhere\.invalid.*; pass --weights FILE"
    ) as caught:
        require_network(HOST, "weights W", "pass --weights FILE")
    assert "\n" not in str(caught.value)


def test_behind_a_proxy_nothing_is_asked(monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
    require_network(HOST, "weights W", "pass --weights FILE")
