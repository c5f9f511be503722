"""What can play an episode of a benchmark: a trained policy, a robot that does nothing, and a scripted expert."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import gymnasium as gym
import torch
from lerobot.configs.eval import EvalPipelineConfig
from lerobot.envs import make_env_pre_post_processors
from lerobot.envs.utils import NEW_ROLLOUT_OPTION
from lerobot.policies.factory import make_policy, make_pre_post_processors
from lerobot.processor import (
    PolicyProcessorPipeline,
    policy_action_to_transition,
    transition_to_policy_action,
)
from lerobot.scripts.lerobot_eval import rollout
from lerobot.utils.random_utils import set_seed

from lerobot_lara.envs.demonstration_sources import source_of
from lerobot_lara.evaluation.benchmark.fit import check_fit
from lerobot_lara.evaluation.study.zero_policy import ZeroPolicy, ZeroPolicyConfig

ZERO = "zero"
EXPERT = "expert"

Agent = Callable[[gym.vector.VectorEnv, int, Callable[[], None]], None]
"""Plays one episode in a vector environment of one copy, from a seed, and calls back after each frame."""


def make_agent(name: str, cfg: EvalPipelineConfig, env: gym.vector.VectorEnv) -> Agent:
    """Makes the agent of a cell.

    Args:
        name: "zero", "expert", or anything else for the configuration's policy.
        cfg: As for `lerobot-eval`.
        env: The vector environment, of one copy.

    Raises:
        ValueError: The policy does not fit the environment, or there is no expert for it.
    """
    if name == EXPERT:
        return _expert(cfg)
    if name == ZERO:
        policy = ZeroPolicy(
            ZeroPolicyConfig(action_dim=int((env.action_space.shape or (0,))[-1]), device="cpu")
        )
        processors = (
            PolicyProcessorPipeline(steps=[]),
            PolicyProcessorPipeline(
                steps=[], to_transition=policy_action_to_transition, to_output=transition_to_policy_action
            ),
        )
        return _player(policy, cfg, *processors)
    assert cfg.policy is not None
    check_fit(cfg.policy, cfg.env, cfg.rename_map)
    policy = make_policy(cfg=cfg.policy, env_cfg=cfg.env, rename_map=cfg.rename_map)
    policy.eval()
    preprocessor, postprocessor = make_pre_post_processors(
        policy_cfg=cfg.policy,
        pretrained_path=cfg.policy.pretrained_path,
        preprocessor_overrides={
            "device_processor": {"device": str(policy.config.device)},
            "rename_observations_processor": {"rename_map": cfg.rename_map},
        },
    )
    device = torch.device(cfg.policy.device or "cpu").type
    precision = torch.autocast(device) if cfg.policy.use_amp else nullcontext()
    return _player(policy, cfg, preprocessor, postprocessor, precision)


def _player(
    policy: Any,
    cfg: EvalPipelineConfig,
    preprocessor: Any,
    postprocessor: Any,
    precision: AbstractContextManager | None = None,
) -> Agent:
    """An agent that plays by LeRobot's own rollout."""
    env_preprocessor, env_postprocessor = make_env_pre_post_processors(
        env_cfg=cfg.env, policy_cfg=policy.config
    )

    def play(env: gym.vector.VectorEnv, seed: int, after_frame: Callable[[], None]) -> None:
        # The noise that a policy starts from is the episode's own, whichever episodes came before.
        set_seed(seed)
        with torch.no_grad(), precision or nullcontext():
            rollout(
                env=env,
                policy=policy,
                env_preprocessor=env_preprocessor,
                env_postprocessor=env_postprocessor,
                preprocessor=preprocessor,
                postprocessor=postprocessor,
                seeds=[seed],
                render_callback=lambda env: after_frame(),
            )

    return play


def _expert(cfg: EvalPipelineConfig) -> Agent:
    """An agent that knows the simulator's state."""
    source = source_of(cfg.env.type)
    if source is None:
        raise ValueError(
            f"`env.type` is {cfg.env.type!r}, for which there is no scripted expert. Leave it out."
        )

    def play(env: gym.vector.VectorEnv, seed: int, after_frame: Callable[[], None]) -> None:
        one = env.envs[0].unwrapped  # type: ignore[attr-defined]
        # Without the option, an environment whose episode has ended stays at its end.
        options = {NEW_ROLLOUT_OPTION: True}
        observation, _ = env.reset(seed=[seed], options=options)  # type: ignore[arg-type]
        after_frame()
        act = source.start_expert(one, first_copy(observation))
        done = False
        while not done:
            observation, _, terminated, truncated, _ = env.step(act(first_copy(observation))[None])
            after_frame()
            done = bool(terminated[0] or truncated[0])

    return play


def first_copy(observation: dict[str, Any]) -> dict[str, Any]:
    """The observation of the first copy of a vector environment."""
    return {
        name: first_copy(values) if isinstance(values, dict) else values[0]
        for name, values in observation.items()
    }
