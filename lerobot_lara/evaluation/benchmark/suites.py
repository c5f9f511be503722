"""Suites of `lara benchmark`: an environment type, its tasks, and how many episodes are usual."""

from dataclasses import dataclass, replace

from lerobot_lara.envs import configuration_libero_fast as libero
from lerobot_lara.envs import configuration_simpler as simpler
from lerobot_lara.envs.demonstration_sources import source_of
from lerobot_lara.envs.task_names import split_task_names


@dataclass(frozen=True)
class Suite:
    """A benchmark, as the flags of `lerobot-eval`.

    Attributes:
        env_type: The environment's type, `--env.type`.
        tasks: The tasks, each the value of `--env.task` for its cells.
        episodes: Usual number of episodes per task.
        env_flags: Further flags of the environment.
        note: What a reader of the figures has to know.
    """

    env_type: str
    tasks: tuple[str, ...]
    episodes: int = 20
    env_flags: tuple[str, ...] = ()
    note: str = ""

    @property
    def has_expert(self) -> bool:
        """Whether the package has a scripted expert for all tasks."""
        source = source_of(self.env_type)
        return source is not None and all(map(source.solves, self.tasks))

    def only(self, tasks: str | None) -> "Suite":
        """The suite with some of its tasks, separated by commas; None keeps all.

        Raises:
            ValueError: A task is not one of the suite's.
        """
        if tasks is None:
            return self
        return replace(self, tasks=tuple(split_task_names(tasks, self.tasks, kind="task of the suite")))


SUITES = {
    "simpler-widowx": Suite(
        "simpler",
        tuple(simpler.TASKS),
        episodes=simpler.NUM_STARTS,
        note="SIMPLER's 24 starting positions per task. An episode ends with its first success; SIMPLER's own scripts "
        "ask whether the task is solved at the last step (--env.end_on_success=false).",
    ),
    **{
        f"libero-{name}": Suite(
            "libero_fast",
            tuple(libero.resolve_tasks(f"libero_{name}")[f"libero_{name}"]),
            note="LIBERO's fixed starting states. Cheap rendering of 256 pixels: without shadows and reflections.",
        )
        for name in ("spatial", "object", "goal", "10")
    },
    "metaworld-mt5": Suite(
        "metaworld_fast",
        (
            "button-press-topdown-v3",
            "coffee-button-v3",
            "faucet-open-v3",
            "plate-slide-v3",
            "window-close-v3",
        ),
        note="Five of Meta-World's tasks, in images of 128 pixels unless --env.image_size says otherwise.",
    ),
}
"""By the value of `--suite`."""


def custom_suite(env_type: str, tasks: str) -> Suite:
    """A suite of any environment type that LeRobot or this package has.

    Args:
        env_type: The type.
        tasks: Its tasks, separated by commas; groups of this package's types are expanded.

    Raises:
        ValueError: The type is unknown, or no task is named.
    """
    from lerobot.envs.configs import EnvConfig

    known = EnvConfig.get_known_choices()
    if env_type not in known:
        raise ValueError(f"`env` is {env_type!r}; it must be one of {', '.join(sorted(known))}.")
    if source := source_of(env_type):
        names = [name for group in source.tasks(tasks).values() for name in group]
    else:
        names = [name.strip() for name in (tasks or "").split(",") if name.strip()]
    if not names:
        raise ValueError("`tasks` is empty; it must name tasks of the environment, separated by commas.")
    return Suite(env_type, tuple(dict.fromkeys(names)))
