import json
from dataclasses import dataclass, field

import gymnasium as gym
import numpy as np
import pytest
import torch
from lerobot.configs import FeatureType, PolicyFeature
from lerobot.configs.default import EvalConfig
from lerobot.configs.eval import EvalPipelineConfig
from lerobot.envs.configs import EnvConfig

from lerobot_lara.evaluation.demo_results import read_successes
from lerobot_lara.evaluation.study.zero_policy import ZeroPolicy, ZeroPolicyConfig, evaluate_zero_policy


class PushEnv(gym.Env):
    """Solved as soon as an action is not zero, or, if `lenient`, by doing nothing."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}
    observation_space = gym.spaces.Dict({"agent_pos": gym.spaces.Box(-1, 1, (2,), np.float64)})
    action_space = gym.spaces.Box(-1, 1, (3,), np.float32)
    task = task_description = "push"
    _max_episode_steps = 4

    def __init__(self, lenient):
        self.lenient = lenient
        self.render_mode = "rgb_array"

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.step_count = 0
        return {"agent_pos": np.zeros(2)}, {"is_success": False}

    def step(self, action):
        self.step_count += 1
        success = self.lenient or bool(np.any(action))
        truncated = self.step_count >= self._max_episode_steps
        return {"agent_pos": np.zeros(2)}, 0.0, success, truncated, {"is_success": success}


@EnvConfig.register_subclass("zero_policy_test")
@dataclass
class PushEnvConfig(EnvConfig):
    lenient: bool = False
    features: dict = field(default_factory=lambda: {"action": PolicyFeature(FeatureType.ACTION, (3,))})

    @property
    def gym_kwargs(self):
        return {}

    def create_envs(self, n_envs, use_async_envs=False):
        mode = gym.vector.AutoresetMode.SAME_STEP
        env = gym.vector.SyncVectorEnv([lambda: PushEnv(self.lenient)] * n_envs, autoreset_mode=mode)
        return {"push": {0: env}}


@pytest.mark.parametrize(("lenient", "successes"), [(False, 0), (True, 3)])
def test_zero_policy_scores_through_lerobots_evaluation(tmp_path, lenient, successes):
    cfg = EvalPipelineConfig(
        env=PushEnvConfig(lenient=lenient),
        eval=EvalConfig(n_episodes=3, batch_size=1),
        output_dir=tmp_path / "zero",
    )
    info = evaluate_zero_policy(cfg)
    assert info["overall"]["pc_success"] == pytest.approx(100 * successes / 3)
    assert json.loads((tmp_path / "zero" / "eval_info.json").read_text()) == info
    assert read_successes(tmp_path / "zero" / "eval_info.json") == {
        "push": {"successes": successes, "episodes": 3}
    }


def test_zero_policy_answers_every_observation_with_zeros():
    policy = ZeroPolicy(ZeroPolicyConfig(action_dim=4, device="cpu"))
    batch = {"task": ["a", "b"], "observation.state": torch.ones(2, 3)}
    assert torch.equal(policy.select_action(batch), torch.zeros(2, 4))
    assert policy.predict_action_chunk(batch).shape == (2, 1, 4)
    with pytest.raises(ValueError, match="cannot be trained"):
        policy.forward(batch)
