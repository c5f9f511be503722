"""Demonstrations by Meta-World's scripted experts, which act on privileged observations."""

import math
import warnings
import zlib
from typing import Any

import numpy as np

from lerobot_lara.envs.metaworld_fast import MetaworldFastEnv

NOISE_STDS = (0.09, 0.3)
"""Standard deviations of the noise on executed actions in [-1, 1]; episodes take them in turn."""
NOISE_CORRELATION = 0.9
"""Correlation of the noise from one step to the next, 1/80 s later."""
MAX_ATTEMPTS = 20
LOWEST_SIMULATOR_SEED = 2**20
"""Simulator seeds are drawn from here upwards, as `lerobot-eval` counts up from its `seed`, 1000 by default."""


def record_demonstration(
    env: MetaworldFastEnv, *, seed: int, episode: int, steps_after_success: int = 10
) -> dict[str, Any]:
    """Records attempts of the scripted expert until one succeeds; the arguments determine the result.

    Args:
        env: The environment, whose episode length limits an attempt.
        seed: Seed of the dataset.
        episode: Number of the episode within its task, which selects the noise level.
        steps_after_success: Steps recorded after the task is solved.

    Returns:
        `images` (T, H, W, 3) uint8 and `states` (T, 4) float32, as seen before each action; `actions` (T, 4) float32,
        the expert's; and `simulator_seed`, `noise_std` and `failed_attempts`.

    Raises:
        RuntimeError: The expert failed `MAX_ATTEMPTS` times.
    """
    noise_std = NOISE_STDS[episode % len(NOISE_STDS)]
    for attempt in range(MAX_ATTEMPTS):
        generator = np.random.default_rng([seed, zlib.crc32(env.task.encode()), episode, attempt])
        simulator_seed = int(generator.integers(LOWEST_SIMULATOR_SEED, 2**31))
        frames = _attempt(env, generator, simulator_seed, noise_std, steps_after_success)
        if frames is not None:
            images, states, actions = (np.stack(values) for values in zip(*frames, strict=True))
            return {
                "images": images,
                "states": states,
                "actions": actions,
                "simulator_seed": simulator_seed,
                "noise_std": noise_std,
                "failed_attempts": attempt,
            }
    raise RuntimeError(f"{env.task}: the expert failed {MAX_ATTEMPTS} times in a row in episode {episode}.")


def _attempt(
    env: MetaworldFastEnv,
    generator: np.random.Generator,
    simulator_seed: int,
    noise_std: float,
    steps_after_success: int,
) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]] | None:
    """Makes one attempt: (image, state, expert action) of each step, or None if the expert did not succeed."""
    expert = type(env.expert_policy)()
    observation, _ = env.reset(seed=simulator_seed)
    frames = []
    noise = noise_std * generator.standard_normal(3)
    success, truncated, remaining = False, False, steps_after_success
    while not truncated and not (success and remaining == 0):
        remaining -= success
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Constant")  # "... may be too high": clipped here
            action = np.clip(expert.get_action(env.raw_observation), -1, 1).astype(np.float32)
        frames.append((observation["pixels"], observation["agent_pos"].astype(np.float32), action))
        executed = action.copy()
        executed[:3] = np.clip(executed[:3] + noise, -1, 1)
        innovation_std = noise_std * math.sqrt(1 - NOISE_CORRELATION**2)
        noise = NOISE_CORRELATION * noise + innovation_std * generator.standard_normal(3)
        observation, _, solved, truncated, _ = env.step(executed)
        success = success or solved
    return frames if success else None
