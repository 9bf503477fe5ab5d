from __future__ import annotations

from pathlib import Path

import pytest

from layerkit.settings import Settings


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, {}),
        ({"HTTPS_PROXY": "http://a", "https_proxy": "http://b"}, {"https": "http://b"}),
        ({"HTTPS_PROXY": "http://a", "https_proxy": ""}, {}),
        ({"ALL_PROXY": "http://a", "NO_PROXY": "x,y"}, {"all": "http://a", "no": "x,y"}),
        ({"HTTP_PROXY": "http://evil", "REQUEST_METHOD": "GET"}, {}),
        ({"http_proxy": "http://a", "REQUEST_METHOD": "GET"}, {"http": "http://a"}),
        ({"PROXY": "x", "_PROXY": "x"}, {}),
    ],
)
def test_proxies(given: dict[str, str], expected: dict[str, str]) -> None:
    """Proxies are read in either case as curl reads them: the lower case wins, and no CGI header is taken for one."""
    assert Settings.from_environment({"HOME": "/root", **given}).proxies == expected


def test_folders(tmp_path: Path) -> None:
    """State and Docker's configuration are where their conventions say."""
    home = str(tmp_path)
    assert Settings.from_environment({"HOME": home}).state_folder == tmp_path / ".cache" / "layerkit"
    assert Settings.from_environment({"HOME": home, "XDG_CACHE_HOME": "/c"}).state_folder == Path("/c/layerkit")
    assert Settings.from_environment({"HOME": home, "LAYERKIT_STATE_DIR": "/s"}).state_folder == Path("/s")
    assert Settings.from_environment({"HOME": home}).docker_config == tmp_path / ".docker"


def test_epoch() -> None:
    """SOURCE_DATE_EPOCH counts where it is a number of seconds."""
    assert Settings.from_environment({"HOME": "/", "SOURCE_DATE_EPOCH": "12"}).source_date_epoch == 12
    assert Settings.from_environment({"HOME": "/", "SOURCE_DATE_EPOCH": "soon"}).source_date_epoch is None
