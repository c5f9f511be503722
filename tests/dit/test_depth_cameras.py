"""Depth cameras, as LeRobot records them beside the color camera, are left out and said."""

import logging

import pytest
import torch
from lerobot.configs import FeatureType, PolicyFeature
from support.policies import TINY, TINY_LAM, fake_batch, features, make_lara, make_policy, pair_batch, wake

from lerobot_lara.dit.configuration_lara_dit import LaraDiTConfig
from lerobot_lara.dit.modeling_lara_dit import LaraDiTPolicy
from lerobot_lara.lam.configuration_lara_lam import LaraLAMConfig
from lerobot_lara.lam.latent_action_model import LatentActionModel
from lerobot_lara.lam.modeling_lara_lam import LaraLAMPolicy

DEPTH, COLOR = "observation.images.a_depth", "observation.image"


def with_depth(**options):
    """Features in which a depth camera comes first."""
    found = features(**options)
    depth = {DEPTH: PolicyFeature(FeatureType.VISUAL, (1, 32, 32))}
    return found | {"input_features": depth | found["input_features"]}


def test_a_policy_sees_the_color_cameras_only(caplog):
    caplog.set_level(logging.INFO)
    torch.manual_seed(0)
    policy = wake(LaraDiTPolicy(LaraDiTConfig(**TINY | with_depth())))
    assert caplog.text.count(f"Left out, as they have no color: ['{DEPTH}']") == 1
    batch, plain = fake_batch(2), make_policy()
    noise = torch.randn(2, 8, 4)
    expected = plain.predict_action_chunk(batch, noise=noise)
    batch[DEPTH] = torch.rand(2, 1, 32, 32) * 1000
    assert torch.equal(policy.predict_action_chunk(batch, noise=noise), expected)


def test_a_lam_takes_the_first_color_camera(tmp_path):
    policy = LaraLAMPolicy(LaraLAMConfig(**TINY_LAM, device="cpu", **with_depth(action=0)))
    assert policy.config.camera_key == COLOR
    policy.train()(pair_batch())
    with pytest.raises(ValueError, match=rf"`camera` is '{DEPTH}'; it must be one of .*\['{COLOR}'\]"):
        LaraLAMPolicy(LaraLAMConfig(**TINY_LAM, device="cpu", camera=DEPTH, **with_depth(action=0)))
    LatentActionModel.from_config(**TINY_LAM).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=rf"`lam_camera` is '{DEPTH}'; it must be one of .*\['{COLOR}'\]"):
        make_lara(str(tmp_path), lam_camera=DEPTH, **with_depth())


def test_depth_alone_is_no_camera():
    only = with_depth()
    del only["input_features"][COLOR]
    with pytest.raises(ValueError, match=rf"no color camera.*{DEPTH}.*3 channels"):
        LaraDiTPolicy(LaraDiTConfig(**TINY | only))
