"""The tiny tokenizer and release that the tests of this folder share."""

from pathlib import Path

import pytest
from support.tiny_groot_n16 import save_tokenizer, write_release


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_tokenizer(tmp_path_factory.mktemp("qwen3"))


@pytest.fixture(scope="session")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_release(tmp_path_factory.mktemp("release") / "GR00T-N1.6-3B")
