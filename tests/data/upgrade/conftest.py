"""A small dataset of format v2.1, copied for each test."""

import shutil

import pytest
from data.test_upgrade_dataset import make_legacy


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("legacy")
    return {storage: make_legacy(folder / storage, "v2.1", storage=storage) for storage in ("video", "image")}


@pytest.fixture
def legacy(prepared, tmp_path):
    def copy(storage="video"):
        return shutil.copytree(prepared[storage], tmp_path / "source")

    return copy
