"""A tiny policy that has nothing but what LeRobot and `AlignmentBase` ask for, and its aligned type.

The module's name has no word that LeRobot's factory replaces, so that it serves as configuration, modeling and
processor module at once.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from lerobot.configs import NormalizationMode, PreTrainedConfig
from lerobot.optim import AdamWConfig
from lerobot.policies.pretrained import PreTrainedPolicy
from lerobot.processor import make_default_pre_post_processors
from torch import nn

from lerobot_lara.alignment.config import LatentAlignmentConfig
from lerobot_lara.alignment.mixin import LatentAlignmentMixin
from lerobot_lara.policy.alignment_contract import TapPoint

WIDTH, CHUNK = 8, 4


@PreTrainedConfig.register_subclass("fake_base")
@dataclass
class FakeBaseConfig(PreTrainedConfig):
    dropout: float = 0.5
    normalization_mapping: dict[str, NormalizationMode] = field(
        default_factory=lambda: dict.fromkeys(("VISUAL", "STATE", "ACTION"), NormalizationMode.IDENTITY)
    )

    observation_delta_indices = None
    action_delta_indices = list(range(CHUNK))
    reward_delta_indices = None

    def validate_features(self) -> None:
        pass

    def get_optimizer_preset(self) -> AdamWConfig:
        return AdamWConfig(lr=1e-3, grad_clip_norm=1e9)

    def get_scheduler_preset(self) -> None:
        return None


class FakeBasePolicy(PreTrainedPolicy):
    """Two residual blocks over one token per action; the camera's mean color and the state are added to each."""

    config_class = FakeBaseConfig
    name = "fake_base"

    def __init__(self, config: FakeBaseConfig, **kwargs: Any) -> None:
        super().__init__(config)
        self.camera = next(iter(config.image_features))
        state_dim, action_dim = config.robot_state_feature.shape[0], config.action_feature.shape[0]
        self.observe = nn.Linear(3 + state_dim, WIDTH)
        self.embed = nn.Linear(action_dim, WIDTH)
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh()) for _ in range(2))
        self.dropout = nn.Dropout(config.dropout)
        self.decode = nn.Linear(WIDTH, action_dim)

    def forward(self, batch):
        actions = batch["action"]
        noise = torch.randn_like(actions)
        error = self._denoise(noise, batch) - (actions - noise)
        loss = error.square().mean()
        return loss, {"loss": loss.item(), "noise_scale": noise.std(), "per_dim": error.mean((0, 1)).tolist()}

    def predict_action_chunk(self, batch, noise=None, **kwargs):
        size = len(batch[self.camera])
        noise = torch.zeros(size, CHUNK, self.config.action_feature.shape[0]) if noise is None else noise
        return noise + self._denoise(noise, batch)

    def select_action(self, batch, **kwargs):
        return self.predict_action_chunk(batch)[:, 0]

    def reset(self):
        pass

    def get_optim_params(self):
        return self.parameters()

    def _denoise(self, noisy, batch):
        seen = torch.cat([batch[self.camera].mean((2, 3)), batch["observation.state"]], dim=-1)
        hidden_states = self.embed(noisy) + self.observe(seen)[:, None]
        for block in self.blocks:
            hidden_states = hidden_states + self.dropout(block(hidden_states))
        return self.decode(hidden_states)


@PreTrainedConfig.register_subclass("lara_fake_base")
@dataclass
class LaraFakeBaseConfig(LatentAlignmentConfig, FakeBaseConfig):
    """The base's fields and those of the alignment."""


class LaraFakeBasePolicy(LatentAlignmentMixin, FakeBasePolicy):
    """The four members of the contract, and nothing else."""

    config_class = LaraFakeBaseConfig
    name = "lara_fake_base"

    @property
    def alignment_width(self):
        return WIDTH

    @property
    def alignment_taps(self):
        return [TapPoint(block) for block in self.blocks]

    def action_tokens(self, hidden_states, batch):
        return hidden_states, None

    def flow_loss(self, batch):
        return FakeBasePolicy.forward(self, batch)


def make_fake_base_pre_post_processors(config, dataset_stats=None):
    return make_default_pre_post_processors(config, dataset_stats)


make_lara_fake_base_pre_post_processors = make_fake_base_pre_post_processors
