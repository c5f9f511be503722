"""The rate of the data, which a policy keeps in its checkpoints."""

from types import SimpleNamespace

import pytest
from support.policies import TINY, features

from lerobot_lara.dit.configuration_lara_dit import LaraDiTConfig
from lerobot_lara.dit.modeling_lara_dit import LaraDiTPolicy

RATED = SimpleNamespace(fps=5)


@pytest.fixture
def checkpoint(tmp_path):
    policy = LaraDiTPolicy(LaraDiTConfig(**TINY | features()), dataset_meta=RATED)
    policy.save_pretrained(tmp_path / "trained")
    return tmp_path / "trained"


def test_a_checkpoint_has_the_rate_of_its_data(checkpoint):
    assert LaraDiTPolicy.from_pretrained(checkpoint).config.fps == 5


def test_training_on_other_data_changes_it_and_acting_does_not(checkpoint):
    faster = LaraDiTPolicy.from_pretrained(checkpoint, dataset_meta=SimpleNamespace(fps=30, features={}))
    assert faster.config.fps == 30
    unknown = LaraDiTPolicy.from_pretrained(checkpoint, dataset_meta=SimpleNamespace(features={}))
    assert unknown.config.fps == 5
    assert LaraDiTPolicy(LaraDiTConfig(**TINY | features())).config.fps is None
