"""One cell of a benchmark: an agent plays the episodes of a task, one by one.

It takes the flags of `lerobot-eval`, and `--agent`:

    python -m lerobot_lara.evaluation.benchmark.cell --policy.path=you/lara --env.type=simpler \
        --env.task=widowx_stack_cube --eval.n_episodes=24 --seed=0 --output_dir=outputs/cell

Each episode is written when it ends, so that a killed run loses at most one, and the same command goes on. The outcome
of an episode depends on its seed and not on the episodes before it.
"""

import functools
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from lerobot.configs import parser
from lerobot.configs.eval import EvalPipelineConfig
from lerobot.envs import close_envs, make_env
from lerobot.envs.utils import FreezeAfterEpisodeEnd
from lerobot.utils.import_utils import register_third_party_plugins
from lerobot.utils.io_utils import write_video
from lerobot.utils.utils import init_logging
from tqdm import tqdm

from lerobot_lara.evaluation.benchmark.agents import make_agent
from lerobot_lara.evaluation.benchmark.fit import compare_rates
from lerobot_lara.evaluation.study.result_files import reading_result
from lerobot_lara.files.atomic import write_json

logger = logging.getLogger(__name__)

CELL = "cell.json"
PROGRESS = "Episodes"
VIDEOS = {True: "first_success.mp4", False: "first_failure.mp4"}


@dataclass
class CellConfig(EvalPipelineConfig):
    """The flags of a cell.

    Attributes:
        agent: "policy" for the one of `--policy.path`, "zero", or "expert".
    """

    agent: str = "policy"


def play_cell(cfg: CellConfig) -> Path:
    """Plays the episodes that have not been played; returns the path of the cell's result.

    The result has `episodes`, each with `seed`, `success`, `steps` and, where the environment tells, the parts of the
    task that were `reached`; and `remark`, what may spoil them, or None. The seeds are those of `lerobot-eval`: from
    `cfg.seed` upwards.

    Raises:
        ValueError: The policy does not fit the environment, it gives an action that is not finite, or the environment
            does not tell whether an episode has succeeded, or has several tasks.
    """
    folder = Path(cfg.output_dir or ".")
    (folder / "episodes").mkdir(parents=True, exist_ok=True)
    if cfg.env.type == "libero":
        from lerobot_lara.envs.libero_assets import prepare_libero

        prepare_libero()  # which otherwise asks on the keyboard
    envs = make_env(cfg.env, n_envs=1, use_async_envs=False, trust_remote_code=cfg.trust_remote_code)
    try:
        made = [env for tasks in envs.values() for env in tasks.values()]
        if len(made) != 1:
            raise ValueError(
                f"`env.task` is {cfg.env.task!r}, which stands for {len(made)} tasks of `{cfg.env.type}`; a cell plays "
                "one. Name single tasks; where the type has groups only, choose with --flag=--env.task_ids='[0]'."
            )
        (env,) = made
        agent = make_agent(cfg.agent, cfg, env)
        remark = None if cfg.policy is None else compare_rates(cfg.policy, cfg.env)
        if remark:
            logger.warning(remark)
        watched = _Watch(env)
        assert cfg.seed is not None
        seeds = range(cfg.seed, cfg.seed + cfg.eval.n_episodes)
        episodes = []
        for seed in tqdm(seeds, desc=PROGRESS):
            path = folder / "episodes" / f"{seed}.json"
            if not path.exists():
                wanted = [name for name in VIDEOS.values() if not (folder / name).exists()]
                watched.start(filming=bool(wanted))
                one = env.envs[0].unwrapped  # type: ignore[attr-defined]
                if hasattr(one, "init_state_id"):
                    # LeRobot's LIBERO would count from the first episode of the process.
                    one.init_state_id = seed - cfg.seed
                agent(env, seed, watched.film)
                outcome = watched.outcome(seed)
                name = VIDEOS[outcome["success"]]
                if name in wanted:
                    unfinished = folder / "unfinished.mp4"
                    write_video(unfinished, watched.frames, watched.frames_per_second)
                    unfinished.replace(folder / name)
                write_json(path, outcome)
            with reading_result(path) as outcome:
                episodes.append(
                    {**outcome, "success": bool(outcome["success"]), "steps": int(outcome["steps"])}
                )
    finally:
        close_envs(envs)
    cell = {"task": cfg.env.task, "agent": cfg.agent, "episodes": episodes, "remark": remark}
    write_json(folder / CELL, cell)
    return folder / CELL


class _Watch:
    """Watches what a vector environment of one copy answers.

    Args:
        env: The environment, whose `step` is wrapped.
    """

    def __init__(self, env: gym.vector.VectorEnv) -> None:
        self._env = env
        # Others are at the start of the next episode when the last frame would be drawn.
        self._stays_at_end = isinstance(env.envs[0], FreezeAfterEpisodeEnd)  # type: ignore[attr-defined]
        self.frames_per_second = int(env.unwrapped.metadata.get("render_fps", 10))
        self._info: dict[str, Any] = {}
        step = env.step

        @functools.wraps(step)
        def watched_step(actions: np.ndarray) -> Any:
            if not np.isfinite(actions).all():
                raise ValueError(
                    f"The action at step {self._steps} of the episode is {actions[0]}, which is not finite. The "
                    "checkpoint is broken, or it was trained on other units; look at its training log."
                )
            answer = step(actions)
            self._steps += 1
            self._info = answer[-1]
            self._has_ended = bool(answer[2][0] or answer[3][0])
            return answer

        env.step = watched_step  # type: ignore[method-assign]
        self.start(filming=False)

    def start(self, *, filming: bool) -> None:
        """Begins an episode."""
        self._filming = filming
        self._steps = 0
        self._info = {}
        self._has_ended = False
        self.frames: list[np.ndarray] = []

    def film(self) -> None:
        """Keeps the current frame, if this episode is filmed."""
        if self._filming and (self._stays_at_end or not self._has_ended):
            self.frames.append(self._env.envs[0].render())  # type: ignore[attr-defined]

    def outcome(self, seed: int) -> dict[str, Any]:
        """How the episode that has ended went."""
        final = self._info.get("final_info", self._info)
        if "is_success" not in final:
            raise ValueError(
                f"The environment tells {sorted(final) or 'nothing'} at the end of an episode, and not `is_success`; "
                "LeRobot would count every episode as solved. Add it to `info` and to `info['final_info']`."
            )
        flags = {
            name: bool(np.asarray(value).reshape(-1)[0])
            for name, value in final.items()
            if np.asarray(value).dtype == bool and not name.startswith("_") and name != "is_success"
        }
        success = bool(np.asarray(final["is_success"]).reshape(-1)[0])
        return {"seed": seed, "success": success, "steps": self._steps, "reached": flags}


@parser.wrap()
def cell_main(cfg: CellConfig) -> None:
    """Plays one cell."""
    logging.info("Wrote %s", play_cell(cfg))


if __name__ == "__main__":
    init_logging()
    register_third_party_plugins()
    cell_main()
