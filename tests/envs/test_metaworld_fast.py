"""The environment type `metaworld_fast`, alone and under LeRobot's own evaluation."""

import os
import sys
from dataclasses import dataclass
from typing import Any

import draccus
import numpy as np
import pytest
import torch
from lerobot.configs import FeatureType
from lerobot.envs.configs import EnvConfig
from lerobot.envs.factory import make_env
from lerobot.envs.utils import env_to_policy_features
from support.rendering import skip_without_rendering

from lerobot_lara.envs.configuration_metaworld_fast import (
    MetaworldFastEnvConfig,
    resolve_tasks,
    select_headless_renderer,
)

SIZE = 32
ZERO = np.zeros(4, dtype=np.float32)


@pytest.fixture
def make() -> Any:
    """Returns a maker of environments that are closed after the test."""
    skip_without_rendering()
    from lerobot_lara.envs.metaworld_fast import MetaworldFastEnv

    made = []

    def make_env(task: str = "reach-v3", **kwargs: Any) -> MetaworldFastEnv:
        made.append(MetaworldFastEnv(task, **{"image_size": SIZE, **kwargs}))
        return made[-1]

    yield make_env
    for env in made:
        env.close()


def run_expert(env: Any, *, seed: int) -> list[tuple]:
    """Steps the scripted expert to the end of an episode; returns what each step returned."""
    env.reset(seed=seed)
    expert = type(env.expert_policy)()
    steps = []
    while not steps or not (steps[-1][2] or steps[-1][3]):
        steps.append(env.step(np.clip(expert.get_action(env.raw_observation), -1, 1)))
    return steps


def test_registered_features_match_the_observation(make):
    config = EnvConfig.get_choice_class("metaworld_fast")(task="reach-v3", image_size=SIZE)
    assert isinstance(config, MetaworldFastEnvConfig)
    features = env_to_policy_features(config)
    assert {key: tuple(feature.shape) for key, feature in features.items()} == {
        "action": (4,),
        "observation.state": (4,),
        "observation.image": (3, SIZE, SIZE),
    }
    assert features["observation.image"].type is FeatureType.VISUAL
    observation, _ = make().reset(seed=0)
    assert observation["pixels"].shape == (SIZE, SIZE, 3)
    assert observation["pixels"].dtype == np.uint8
    assert observation["agent_pos"].shape == (4,)


@dataclass
class Command:
    env: EnvConfig


def test_configuration_survives_the_command_line_and_a_saved_file():
    arguments = "--env.type=metaworld_fast --env.task=reach-v3 --env.image_size=64 --env.episode_length=9"
    config = draccus.parse(Command, args=arguments.split()).env
    assert (config.task, config.image_size, config.episode_length) == ("reach-v3", 64, 9)
    assert config.features["pixels"].shape == (64, 64, 3)
    assert draccus.decode(Command, draccus.encode(Command(config))).env == config


def test_zero_policy_fails_and_says_so_when_truncated(make):
    env = make(episode_length=7)
    _, info = env.reset(seed=3)
    assert info["is_success"] is False
    for step in range(1, 8):
        _, _, terminated, truncated, info = env.step(ZERO)
        assert (terminated, truncated) == (False, step == 7)
        assert info["is_success"] is False
    assert info["final_info"]["is_success"] is False


def test_episodes_may_be_longer_than_the_simulator_allows(make):
    env = make(episode_length=502, render_interval=1000)
    env.reset(seed=3)
    truncated = [env.step(ZERO)[3] for _ in range(502)]
    assert truncated == [False] * 501 + [True]


def test_expert_succeeds_and_the_episode_stays_at_its_end(make):
    env = make("door-close-v3", render_interval=1000)
    steps = run_expert(env, seed=5)
    observation, _, terminated, _, info = steps[-1]
    assert terminated
    assert info["is_success"] is True and info["final_info"]["is_success"] is True
    assert not any(step[4]["is_success"] for step in steps[:-1])
    assert "final_info" not in steps[-2][4]
    np.testing.assert_array_equal(env.render(), observation["pixels"])
    np.testing.assert_array_equal(env.raw_observation[:4], observation["agent_pos"])


def test_equal_seeds_reproduce_an_episode_whatever_came_before(make):
    first, second = make("door-close-v3"), make("door-close-v3")
    reference = run_expert(first, seed=11)
    run_expert(second, seed=4)
    other, _ = second.reset(seed=5)
    again = run_expert(second, seed=11)
    assert len(again) == len(reference)
    for step, expected in zip(again, reference, strict=True):
        np.testing.assert_array_equal(step[0]["pixels"], expected[0]["pixels"])
        np.testing.assert_array_equal(step[0]["agent_pos"], expected[0]["agent_pos"])
    assert np.any(other["pixels"] != first.reset(seed=11)[0]["pixels"])


def test_environments_of_several_tasks_render_their_own_scene(make):
    door = make("door-close-v3")
    alone, _ = door.reset(seed=0)
    make("reach-v3").reset(seed=0)
    together, _ = door.reset(seed=0)
    np.testing.assert_array_equal(together["pixels"], alone["pixels"])


def test_cheap_rendering_is_set_before_the_first_frame(make):
    env = make()
    env._ensure_env()
    renderer, model = env._env.mujoco_renderer, env._env.model
    assert renderer.viewer is None, "the rendering context must not exist before the settings"
    env.reset(seed=0)
    assert model.vis.quality.shadowsize == 0
    assert model.vis.quality.offsamples == 0
    assert not model.mat_reflectance.any()
    assert not model.light_castshadow.any()
    assert renderer.viewer.con.shadowSize == 0
    assert renderer.viewer.con.offSamples == 0
    assert (renderer.viewer.con.offWidth, renderer.viewer.con.offHeight) == (SIZE, SIZE)


def test_render_interval_repeats_frames_in_between(make):
    every, third = make(), make(render_interval=3)
    push = np.array([1, 1, 0, 0], dtype=np.float32)
    shown, repeated = [every.reset(seed=0)[0]], [third.reset(seed=0)[0]]
    for _ in range(7):
        shown.append(every.step(push)[0])
        repeated.append(third.step(push)[0])
    for step in range(8):
        np.testing.assert_array_equal(repeated[step]["pixels"], shown[step - step % 3]["pixels"])
        np.testing.assert_array_equal(repeated[step]["agent_pos"], shown[step]["agent_pos"])
    assert np.any(shown[1]["pixels"] != shown[0]["pixels"])
    np.testing.assert_array_equal(third.render(), shown[7]["pixels"])


@pytest.mark.parametrize("action", [np.zeros(3), np.zeros((1, 4)), np.array([0, np.nan, 0, 0])])
def test_bad_actions_are_refused(make, action):
    env = make()
    env.reset(seed=0)
    with pytest.raises(ValueError, match="4 finite numbers"):
        env.step(action)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"task": "drawer-opn-v3"}, "drawer-open-v3"),
        ({"task": " ,"}, "`task` is empty"),
        ({"task": "reach-v3,reach-v3"}, "more than once"),
        ({"image_size": 0}, "image_size"),
        ({"episode_length": 0}, "episode_length"),
        ({"render_interval": 0}, "render_interval"),
    ],
)
def test_bad_settings_are_refused(kwargs, message):
    with pytest.raises(ValueError, match=message):
        MetaworldFastEnvConfig(**kwargs)


def test_tasks_resolve_by_name_and_by_group():
    assert resolve_tasks("metaworld-reach-v3, door-close-v3") == {
        "reach-v3": ["reach-v3"],
        "door-close-v3": ["door-close-v3"],
    }
    assert len(resolve_tasks("medium")["medium"]) > 1


def test_headless_renderer_respects_the_user(monkeypatch):
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    select_headless_renderer()
    assert os.environ["MUJOCO_GL"] == "egl"
    monkeypatch.setenv("MUJOCO_GL", "osmesa")
    select_headless_renderer()
    assert os.environ["MUJOCO_GL"] == "osmesa"


class ScriptedPolicy(torch.nn.Module):
    """Acts for two environments at once: the first is driven by the expert's recorded actions."""

    def __init__(self, actions: np.ndarray) -> None:
        super().__init__()
        self.actions = actions
        self.tasks: list[str] = []

    def reset(self) -> None:
        self.step = 0

    def select_action(self, observation: dict[str, Any]) -> torch.Tensor:
        self.tasks = observation["task"]
        assert observation["observation.image"].shape == (2, 3, SIZE, SIZE)
        assert observation["observation.state"].shape == (2, 4)
        action = np.zeros((2, 4), dtype=np.float32)
        action[0] = self.actions[min(self.step, len(self.actions) - 1)]
        self.step += 1
        return torch.from_numpy(action)


@pytest.mark.parametrize("use_async_envs", [False, True])
def test_lerobot_rollout_counts_success_per_environment(make, use_async_envs):
    from lerobot.scripts.lerobot_eval import rollout

    env = make("door-close-v3", render_interval=1000)
    env.reset(seed=1000)
    expert = type(env.expert_policy)()
    actions, solved = [], False
    while not solved:
        actions.append(np.clip(expert.get_action(env.raw_observation), -1, 1).astype(np.float32))
        solved = env.step(actions[-1])[2]

    num_steps = len(actions) + 4
    config = MetaworldFastEnvConfig(
        task="door-close-v3,reach-v3", image_size=SIZE, episode_length=num_steps, render_interval=8
    )
    envs = make_env(config, n_envs=2, use_async_envs=use_async_envs)
    assert {name: list(group) for name, group in envs.items()} == {"door-close-v3": [0], "reach-v3": [0]}
    vector_env = envs["door-close-v3"][0]
    policy = ScriptedPolicy(np.stack(actions))
    try:
        result = rollout(
            vector_env,
            policy,
            *config.get_env_processors(),
            preprocessor=lambda observation: observation,
            postprocessor=lambda action: action,
            seeds=[1000, 1001],
        )
    finally:
        vector_env.close()
    assert policy.tasks == ["Close a door with a revolving joint"] * 2
    assert result["done"].shape == (2, num_steps)
    assert result["success"].any(dim=1).tolist() == [True, False]
    assert int(result["done"][0].float().argmax()) == len(actions) - 1
    assert int(result["done"][1].float().argmax()) == num_steps - 1
    assert result["reward"][0, len(actions) :].abs().sum() == 0, "an ended episode idles"
