"""Tiny policies and batches."""

import torch
from lerobot.configs import FeatureType, PolicyFeature

from lerobot_lara.dit.configuration_lara_dit import LaraDiTConfig
from lerobot_lara.dit.modeling_lara_dit import LaraDiTPolicy

CAMERA = "observation.image"
TINY = {
    "device": "cpu",
    "push_to_hub": False,
    "image_size": 32,
    "vision_encoder_width": 16,
    "text_encoder": None,
    "width": 16,
    "num_layers": 3,
    "num_heads": 2,
    "chunk_size": 8,
    "n_action_steps": 4,
    "action_patch_size": 2,
}
GR00T = {"action_head": "gr00t", "action_patch_size": 1}


def features(cameras=(CAMERA,), state=3, action=4):
    inputs = {camera: PolicyFeature(FeatureType.VISUAL, (3, 32, 32)) for camera in cameras}
    if state:
        inputs["observation.state"] = PolicyFeature(FeatureType.STATE, (state,))
    outputs = {"action": PolicyFeature(FeatureType.ACTION, (action,))} if action else {}
    return {"input_features": inputs, "output_features": outputs}


def make_policy(cameras=(CAMERA,), state=3, action=4, fresh=False, **options):
    torch.manual_seed(0)
    policy = LaraDiTPolicy(LaraDiTConfig(**TINY | features(cameras, state, action) | options))
    return policy if fresh else wake(policy)


def wake(policy):
    """Random weights everywhere: adaLN-Zero starts silent, and a silent network passes too many tests."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return policy


def fake_batch(size=4, cameras=(CAMERA,), state=3, action=4, chunk=8):
    generator = torch.Generator().manual_seed(2)
    batch = {camera: torch.rand(size, 3, 32, 32, generator=generator) for camera in cameras}
    if state:
        batch["observation.state"] = torch.randn(size, state, generator=generator)
    if action:
        batch["action"] = torch.randn(size, chunk, action, generator=generator)
        batch["action_is_pad"] = torch.zeros(size, chunk, dtype=torch.bool)
    return batch
