"""The zero-action baseline, run through LeRobot's own evaluation.

If an environment reports success for a robot that does nothing, its success rates are meaningless. Studies therefore
evaluate this policy next to the trained ones. It takes the flags of `lerobot-eval`, without a policy:

    python -m lerobot_lara.evaluation.study.zero_policy --env.type=metaworld_fast --env.task=drawer-open-v3 \
        --eval.n_episodes=20 --eval.batch_size=1 --output_dir=outputs/zero
"""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lerobot.configs import parser
from lerobot.configs.eval import EvalPipelineConfig
from lerobot.configs.policies import PreTrainedConfig
from lerobot.envs import close_envs, make_env, make_env_pre_post_processors
from lerobot.optim.optimizers import AdamConfig
from lerobot.policies.pretrained import PreTrainedPolicy
from lerobot.processor import (
    PolicyProcessorPipeline,
    policy_action_to_transition,
    transition_to_policy_action,
)
from lerobot.scripts.lerobot_eval import eval_policy_all
from lerobot.utils.import_utils import register_third_party_plugins
from lerobot.utils.random_utils import set_seed
from lerobot.utils.utils import init_logging
from torch import Tensor

from lerobot_lara.files.atomic import write_json


@dataclass
class ZeroPolicyConfig(PreTrainedConfig):
    """Configuration of a policy without parameters; not a registered policy type.

    Args:
        action_dim: Width of the environment's actions.
    """

    action_dim: int = 1

    @property
    def observation_delta_indices(self) -> None:
        """Only the current observation."""
        return None

    @property
    def action_delta_indices(self) -> None:
        """Only the current action."""
        return None

    @property
    def reward_delta_indices(self) -> None:
        """No rewards."""
        return None

    def get_optimizer_preset(self) -> AdamConfig:
        """LeRobot's default; nothing is trained."""
        return AdamConfig()

    def get_scheduler_preset(self) -> None:
        """No scheduler."""
        return None

    def validate_features(self) -> None:
        """Accepts any features, because the observation is ignored."""


class ZeroPolicy(PreTrainedPolicy):
    """Answers every observation with an action of zeros."""

    config_class = ZeroPolicyConfig
    name = "zero"

    def get_optim_params(self) -> list:
        """No parameters."""
        return []

    def reset(self) -> None:
        """Does nothing, because the policy has no memory."""

    def forward(self, batch: dict[str, Any]) -> tuple[Tensor, dict | None]:
        """Refuses to train."""
        raise ValueError("The zero policy cannot be trained: it has no parameters. Pass another policy.")

    def predict_action_chunk(self, batch: dict[str, Any], **kwargs: Any) -> Tensor:
        """Returns a chunk of one zero action, (B, 1, A)."""
        return self.select_action(batch).unsqueeze(1)

    def select_action(self, batch: dict[str, Any], **kwargs: Any) -> Tensor:
        """Returns zero actions (B, A) for the B observations of the batch."""
        num_envs = next(value.shape[0] for value in batch.values() if isinstance(value, Tensor))
        return torch.zeros(num_envs, self.config.action_dim)


def evaluate_zero_policy(cfg: EvalPipelineConfig) -> dict[str, Any]:
    """Evaluates the zero policy on the environments of a `lerobot-eval` configuration.

    Args:
        cfg: Configuration whose environments, episodes, seed and `output_dir` are used as by `lerobot-eval`, and whose
            policy is ignored.

    Returns:
        LeRobot's evaluation summary, which is also written to `<output_dir>/eval_info.json`.
    """
    set_seed(cfg.seed)
    envs = make_env(cfg.env, n_envs=cfg.eval.batch_size, use_async_envs=cfg.eval.use_async_envs)
    any_env = next(env for tasks in envs.values() for env in tasks.values())
    action_dim = int(any_env.action_space.shape[-1])
    policy = ZeroPolicy(ZeroPolicyConfig(action_dim=action_dim, device="cpu"))
    env_preprocessor, env_postprocessor = make_env_pre_post_processors(cfg.env, policy.config)
    try:
        info = eval_policy_all(
            envs=envs,
            policy=policy,
            env_preprocessor=env_preprocessor,
            env_postprocessor=env_postprocessor,
            preprocessor=PolicyProcessorPipeline(steps=[]),
            postprocessor=PolicyProcessorPipeline(
                steps=[],
                to_transition=policy_action_to_transition,
                to_output=transition_to_policy_action,
            ),
            n_episodes=cfg.eval.n_episodes,
            start_seed=cfg.seed,
            max_parallel_tasks=cfg.env.max_parallel_tasks,
        )
    finally:
        close_envs(envs)
    output_dir = Path(cfg.output_dir or ".")
    write_json(output_dir / "eval_info.json", info)
    logging.info("Success of the zero policy: %.1f %%", info["overall"]["pc_success"])
    return info


@parser.wrap()
def zero_policy_main(cfg: EvalPipelineConfig) -> None:
    """Evaluates the zero policy; takes the flags of `lerobot-eval`, without `--policy.*`."""
    evaluate_zero_policy(cfg)


if __name__ == "__main__":
    init_logging()
    register_third_party_plugins()
    zero_policy_main()
