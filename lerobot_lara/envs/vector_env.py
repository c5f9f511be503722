"""Copies of one environment that are stepped together."""

import multiprocessing
from collections.abc import Callable, Sequence

import gymnasium as gym
from lerobot.envs.utils import _LazyAsyncVectorEnv, freeze_after_episode_end


def make_vector_env(
    makers: Sequence[Callable[[], gym.Env]], *, use_async_envs: bool, module: str
) -> gym.vector.VectorEnv:
    """Makes a vector environment of copies of one task.

    A copy whose episode has ended is idle until LeRobot starts the next rollout, instead of playing and rendering
    episodes that are not counted.

    Args:
        makers: Make one copy each; they must be picklable for several processes.
        use_async_envs: Run each of several copies in its own process, started at the first reset.
        module: Module of the environment. The processes fork from a server that has imported it once, as an import
            takes seconds.
    """
    if use_async_envs and len(makers) > 1:
        multiprocessing.set_forkserver_preload(["__main__", module])
        return _LazyAsyncVectorEnv(list(makers))
    return gym.vector.SyncVectorEnv([freeze_after_episode_end(make_one) for make_one in makers])
