"""Demonstrations by Meta-World's scripted experts, which act on privileged observations."""

import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from lerobot.utils.constants import OBS_IMAGE

from lerobot_lara.envs.demonstrations import Frame
from lerobot_lara.envs.metaworld_fast import MetaworldFastEnv

NOISE_STDS = (0.09, 0.3)
"""Standard deviations of the noise on executed actions in [-1, 1]; episodes take them in turn."""
NOISE_CORRELATION = 0.9
"""Correlation of the noise from one step to the next, 1/80 s later."""


def start_expert(
    env: MetaworldFastEnv, observation: dict[str, Any]
) -> Callable[[dict[str, Any]], np.ndarray]:
    """Returns what acts in an episode that was just begun: it maps an observation to an action, (4,) in [-1, 1].

    It looks at the simulator's state instead of the observation.
    """
    expert = type(env.expert_policy)()

    def act(observation: dict[str, Any]) -> np.ndarray:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Constant")  # "... may be too high": clipped here
            return np.clip(expert.get_action(env.raw_observation), -1, 1).astype(np.float32)

    return act


def attempt(
    env: MetaworldFastEnv,
    steps_after_success: int,
    generator: np.random.Generator,
    simulator_seed: int,
    noise_std: float,
) -> list[Frame] | None:
    """Makes one attempt at a demonstration; see `demonstrations.record_demonstration`."""
    observation, _ = env.reset(seed=simulator_seed)
    act = start_expert(env, observation)
    frames: list[Frame] = []
    noise = noise_std * generator.standard_normal(3)
    success, truncated, remaining = False, False, steps_after_success
    while not truncated and not (success and remaining == 0):
        remaining -= success
        action = act(observation)
        frames.append(({OBS_IMAGE: observation["pixels"]}, observation["agent_pos"], action))
        executed = action.copy()
        executed[:3] = np.clip(executed[:3] + noise, -1, 1)
        innovation_std = noise_std * math.sqrt(1 - NOISE_CORRELATION**2)
        noise = NOISE_CORRELATION * noise + innovation_std * generator.standard_normal(3)
        observation, _, solved, truncated, _ = env.step(executed)
        success = success or solved
    return frames if success else None
