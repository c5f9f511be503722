"""Tiny policies and batches."""

import torch
from lerobot.configs import FeatureType, PolicyFeature

from lerobot_lara.configuration_lara import LaraConfig
from lerobot_lara.dit.configuration_lara_dit import LaraDiTConfig
from lerobot_lara.dit.modeling_lara_dit import LaraDiTPolicy
from lerobot_lara.modeling_lara import LaraPolicy

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
TINY_LAM = {
    "frame_gap": 4,
    "image_size": 32,
    "prediction_size": 16,
    "frame_encoder_width": 16,
    "num_latent_tokens": 2,
    "latent_dim": 3,
    "idm_width": 16,
    "idm_num_layers": 1,
    "idm_num_heads": 2,
    "fdm_width": 16,
    "fdm_num_layers": 1,
    "fdm_num_heads": 2,
    "fdm_patch_size": 8,
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


def make_lara(lam_path, awake=True, **options):
    torch.manual_seed(0)
    arguments = TINY | features() | {"lam_path": lam_path, "frame_gap": 4} | options
    policy = LaraPolicy(LaraConfig(**arguments))
    if awake:
        wake(policy.action_head)
    return policy


def pair_batch(size=6):
    batch = fake_batch(size)
    generator = torch.Generator().manual_seed(5)
    batch[CAMERA] = torch.rand(size, 2, 3, 32, 32, generator=generator)
    batch[f"{CAMERA}_is_pad"] = torch.zeros(size, 2, dtype=torch.bool)
    batch["observation.state"] = torch.randn(size, 2, 3, generator=generator)
    return batch


def loss_of(policy, batch, seed=3):
    torch.manual_seed(seed)
    return policy.train()(batch)


def grad_norm(module):
    return sum(p.grad.norm().item() for p in module.parameters() if p.grad is not None)
