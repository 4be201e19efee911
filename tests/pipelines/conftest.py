"""No test sees the data of whoever runs it."""

import pytest


@pytest.fixture(autouse=True)
def home(tmp_path_factory, monkeypatch):
    """An empty home folder, which the cache of data is below, and no data folder in the environment."""
    folder = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.delenv("FASTISEAT_DATA", raising=False)
    return folder
