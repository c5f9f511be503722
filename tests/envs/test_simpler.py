"""The environment type `simpler` and its scripted expert; what needs the simulator is skipped without its files."""

from dataclasses import dataclass
from typing import Any

import draccus
import numpy as np
import pytest
import torch
from lerobot.envs.configs import EnvConfig
from lerobot.envs.factory import make_env
from lerobot.envs.utils import env_to_policy_features
from scipy.spatial.transform import Rotation
from support.simpler_assets import skip_without_simpler

from lerobot_lara.envs.configuration_simpler import (
    STATE_NAMES,
    TASKS,
    SimplerEnvConfig,
    check_assets,
    resolve_tasks,
)
from lerobot_lara.envs.demonstration_sources import SOURCES

SIZE = {"image_height": 24, "image_width": 32}


@pytest.fixture(scope="module")
def make() -> Any:
    """Returns a maker of environments, one per task and setting, as starting one takes seconds."""
    skip_without_simpler()
    from lerobot_lara.envs.simpler import SimplerEnv

    made: dict[str, SimplerEnv] = {}

    def make_env(task: str = "widowx_carrot_on_plate", **kwargs: Any) -> SimplerEnv:
        key = f"{task} {kwargs}"
        if key not in made:
            made[key] = SimplerEnv(task, **{**SIZE, **kwargs})
        return made[key]

    yield make_env
    for env in made.values():
        env.close()


def run_expert(env: Any, *, seed: int) -> list[tuple]:
    """Steps the expert to the end of an episode; returns what each step returned."""
    from lerobot_lara.envs.simpler_expert import Expert

    observation, _ = env.reset(seed=seed)
    expert = Expert(env, observation["agent_pos"])
    steps: list[tuple] = []
    while not steps or not (steps[-1][2] or steps[-1][3]):
        action = expert.act(observation["agent_pos"])
        expert.executed(action)
        steps.append(env.step(action))
        observation = steps[-1][0]
    return steps


@dataclass
class Command:
    env: EnvConfig


def test_configuration_survives_the_command_line_and_a_saved_file():
    arguments = "--env.type=simpler --env.task=widowx_stack_cube --env.image_height=96 --env.image_width=128"
    config = draccus.parse(Command, args=arguments.split()).env
    assert isinstance(config, SimplerEnvConfig) and config.fps == 5
    features = env_to_policy_features(config)
    assert {key: tuple(feature.shape) for key, feature in features.items()} == {
        "action": (7,),
        "observation.state": (8,),
        "observation.image": (3, 96, 128),
    }
    assert draccus.decode(Command, draccus.encode(Command(config))).env == config


def test_tasks_resolve_by_name_and_by_group():
    assert resolve_tasks("widowx") == {"widowx": list(TASKS)}
    assert resolve_tasks(" widowx_stack_cube,widowx") == {
        "widowx_stack_cube": ["widowx_stack_cube"],
        "widowx": list(TASKS),
    }
    assert [TASKS[name].max_steps for name in TASKS] == [60, 60, 60, 120]


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"task": "widowx_carot_on_plate"}, "Did you mean widowx_carrot_on_plate"),
        ({"task": ""}, "`task` is empty"),
        ({"image_width": 0}, "`image_width` is 0"),
        ({"episode_length": 0}, "`episode_length` is 0"),
        ({"fps": 10}, "`fps` is 10"),
        ({"renderer": "vulkan"}, "`renderer` is 'vulkan'; it must be one of auto, cpu, gpu"),
    ],
)
def test_bad_settings_are_refused(kwargs, message):
    with pytest.raises(ValueError, match=message):
        SimplerEnvConfig(**kwargs)


def test_missing_files_are_an_error_with_the_commands_that_fetch_them(tmp_path, monkeypatch):
    monkeypatch.setenv("MS_ASSET_DIR", str(tmp_path))
    with pytest.raises(
        ValueError, match=r"download_asset widowx250s -y` and .*download_asset bridge_v2_real2sim -y"
    ):
        check_assets(["widowx_stack_cube"])
    for file in (
        "data/robots/widowx/wx250s.urdf",
        "data/tasks/bridge_v2_real2sim_dataset/real_inpainting/bridge_real_eval_1.png",
    ):
        (tmp_path / file).parent.mkdir(parents=True)
        (tmp_path / file).touch()
    check_assets(["widowx_stack_cube"])
    with pytest.raises(ValueError, match=r"bridge_sink\.png\. Run `[^`]*bridge_v2_real2sim -y`,"):
        check_assets(list(TASKS))


def test_actions_are_converted_by_the_rules_of_the_benchmark():
    from lerobot_lara.envs.simpler import _to_simulator

    action = _to_simulator(np.array([0.01, -0.02, 0.03, 0.3, -0.4, 0.5, 0.51]))
    np.testing.assert_allclose(action[:3], [0.01, -0.02, 0.03], atol=1e-7)
    # Roll first, then pitch and yaw, each about the axes of the base.
    about = [Rotation.from_rotvec(np.eye(3)[axis] * angle) for axis, angle in enumerate((0.3, -0.4, 0.5))]
    np.testing.assert_allclose(action[3:6], (about[2] * about[1] * about[0]).as_rotvec(), atol=1e-6)
    assert action[6] == 1 and _to_simulator(np.array([0, 0, 0, 0, 0, 0, 0.5]))[6] == -1


def test_observations_are_those_of_bridge_data(make):
    env = make()
    observation, info = env.reset(seed=1000)
    assert observation["pixels"].shape == (24, 32, 3) and observation["pixels"].dtype == np.uint8
    assert observation["pixels"].std() > 20
    state = dict(zip(STATE_NAMES, observation["agent_pos"], strict=True))
    # SIMPLER's start: in front of the base and above the table, pointing down, open.
    assert 0.2 < state["x"] < 0.4 and abs(state["y"]) < 0.1 and 0.1 < state["z"] < 0.2
    assert max(abs(state[name]) for name in ("roll", "pitch", "yaw")) < 0.1
    assert state["pad"] == 0 and state["gripper"] > 0.95
    assert info == {
        "task": "widowx_carrot_on_plate",
        "is_success": False,
        "grasped": False,
        "moved": False,
        "on_target": False,
    }


def test_actions_move_the_hand_in_the_frame_of_its_base(make):
    env = make()
    start = env.reset(seed=0)[0]["agent_pos"]
    move = np.array([0.02, 0.015, 0.01, 0, 0, 0.1, 0], dtype=np.float32)
    for _ in range(2):
        env.step(move)
    for _ in range(4):
        observation = env.step(np.zeros(7, dtype=np.float32))[0]
    moved = observation["agent_pos"] - start
    np.testing.assert_allclose(moved[:3], 2 * move[:3], atol=0.012)
    assert moved[5] == pytest.approx(0.2, abs=0.03)
    assert observation["agent_pos"][7] < 0.1, "the gripper has closed"


def test_seeds_select_the_24_positions_and_repeat_them(make):
    env = make()
    starts = []
    for seed in range(1000, 1024):
        env.reset(seed=seed)
        starts.append(np.concatenate([actor.pose.p[0].numpy() for actor in env.simulator.objs.values()]))
        turned = next(iter(env.simulator.objs.values())).pose.q[0].numpy()
        starts[-1] = np.round(np.concatenate([starts[-1], turned]), 3)
    assert len({start.tobytes() for start in starts}) == 24


def test_equal_seeds_reproduce_an_episode_whatever_came_before(make):
    env = make("widowx_stack_cube")
    first = run_expert(env, seed=1001)
    run_expert(env, seed=4)
    again = run_expert(env, seed=1001)
    other = env.reset(seed=1025)[0]  # 24 later: the same position
    assert len(again) == len(first)
    for step, expected in zip(again, first, strict=True):
        for name, values in expected[0].items():
            np.testing.assert_array_equal(step[0][name], values)
    np.testing.assert_array_equal(other["pixels"], env.reset(seed=1001)[0]["pixels"])


def test_zero_policy_fails_at_the_step_limit(make):
    env = make(episode_length=5)
    env.reset(seed=0)
    for step in range(1, 6):
        _, _, terminated, truncated, info = env.step(np.zeros(7, dtype=np.float32))
        assert (terminated, truncated, info["is_success"]) == (False, step == 5, False)
    assert info["final_info"]["is_success"] is False and info["final_info"]["grasped"] is False


@pytest.mark.parametrize("task", TASKS)
def test_expert_solves_every_task_and_its_parts_are_noted(make, task):
    steps = run_expert(make(task), seed=3)
    _, _, terminated, truncated, info = steps[-1]
    assert terminated and not truncated
    assert info["final_info"] == {
        "task": task,
        "is_success": True,
        "grasped": True,
        "moved": True,
        "on_target": True,
    }
    assert not steps[0][4]["grasped"] and not any(step[4]["is_success"] for step in steps[:-1])
    grasped = [step[4]["grasped"] for step in steps]
    assert grasped == sorted(grasped), "what was reached stays noted"


def test_an_episode_may_go_on_after_success_and_counts_its_end(make):
    env = make("widowx_stack_cube", end_on_success=False)
    steps = run_expert(env, seed=0)
    assert len(steps) == 60 and not any(step[2] for step in steps)
    assert steps[-1][3] and steps[-1][4]["final_info"]["is_success"]


def test_scenes_of_one_process_do_not_mix(make):
    from mani_skill.envs.tasks.digital_twins.base_env import BaseDigitalTwinEnv

    envs = [make(task) for task in TASKS]
    alone = [env.reset(seed=0)[0]["pixels"] for env in envs]
    together = [env.reset(seed=0)[0]["pixels"] for env in envs]
    for first, second in zip(alone, together, strict=True):
        np.testing.assert_array_equal(first, second)
    overlays = [env.simulator._rgb_overlay_images for env in envs]
    assert len({id(overlay) for overlay in overlays}) == len(TASKS)
    assert BaseDigitalTwinEnv._rgb_overlay_images == {}
    # The sink's photograph is not the table's.
    assert not torch.equal(overlays[0]["3rd_view_camera"], overlays[-1]["3rd_view_camera"])


@pytest.mark.parametrize("action", [np.zeros(6), np.zeros((1, 7)), np.full(7, np.nan)])
def test_bad_actions_are_refused(make, action):
    env = make()
    env.reset(seed=0)
    with pytest.raises(ValueError, match="7 finite numbers"):
        env.step(action)


def test_demonstrations_start_elsewhere_than_evaluations_and_repeat(make):
    env = make(end_on_success=False)
    settings = {"task": env.task, "seed": 3, "episode": 1, "steps_after_success": 3}
    first, second = (SOURCES["simpler"].record(env, **settings) for _ in range(2))
    for name in ("states", "actions"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))
    (camera,) = first.images
    assert camera == "observation.image" and first.images[camera].shape == (len(first.states), 24, 32, 3)
    assert first.states.shape[1] == 8 and first.actions.shape[1] == 7
    start = env._starts
    positions, _ = env.grid()
    distances = np.abs(positions[:, :, :2] - start[None, :, :2]).max(axis=(1, 2))
    assert distances.min() > 0.002
    assert set(np.unique(first.actions[:, 6])) == {0, 1}


@pytest.mark.parametrize("use_async_envs", [False, True])
def test_lerobot_makes_vector_environments_of_it(make, use_async_envs):
    make()
    config = SimplerEnvConfig(task="widowx_stack_cube", episode_length=2, **SIZE)
    made = make_env(config, n_envs=2, use_async_envs=use_async_envs)
    assert list(made) == ["widowx_stack_cube"]
    env = made["widowx_stack_cube"][0]
    try:
        observation, _ = env.reset(seed=[0, 1])
        assert observation["pixels"].shape == (2, 24, 32, 3)
        assert not np.array_equal(observation["pixels"][0], observation["pixels"][1])
        for _ in range(2):
            _, _, _, truncated, info = env.step(np.zeros((2, 7), dtype=np.float32))
        assert truncated.all() and not info["final_info"]["is_success"].any()
        assert list(env.call("task_description")) == ["stack the green block on the yellow block"] * 2
    finally:
        for group in made.values():
            group[0].close()
