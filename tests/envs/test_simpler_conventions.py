"""SIMPLER's robots: conversions, and a client made of the harness's own benchmark around a fake simulator.

The fake has the observations of the original simulator with the Google robot, names and shapes as measured.
"""

import sys
import types
from typing import Any

import numpy as np
import pytest
from scipy.spatial.transform import Rotation
from support.served import run_client, running, save_checkpoint
from vla_eval.benchmarks.simpler.benchmark import SimplerEnvBenchmark
from vla_eval.connection import Connection
from vla_eval.runners.sync_runner import SyncEpisodeRunner

from lerobot_lara.envs.simpler_conventions import (
    GoogleRobotConvention,
    WidowXConvention,
    make_convention,
    rotation_vector,
)

POSE = np.array([0.4, -0.1, 0.8])
QUATERNION_WXYZ = np.array([0.8, 0.36, -0.48, 0.0])
STATES = np.concatenate([POSE, QUATERNION_WXYZ, [0.25]])


def run(openings: list[float]) -> list[float]:
    """What the benchmark's sticky mode makes of the gripper, by its own rule 1 - 2 g before it repeats."""
    convention = GoogleRobotConvention()
    sent = [convention.action(np.array([0, 0, 0, 0, 0, 0, opening]))[6] for opening in openings]
    return [1 - 2 * float(one) for one in sent]


def test_rotations_are_vectors_of_roll_pitch_yaw_about_fixed_axes():
    for angles in np.random.default_rng(0).uniform(-1, 1, (20, 3)):
        expected = Rotation.from_euler("xyz", angles).as_rotvec()
        np.testing.assert_allclose(rotation_vector(angles), expected, atol=1e-6)
        for name in ("simpler_google", "simpler_widowx"):
            action = make_convention(name).action(np.array([1, 2, 3, *angles, 1.0]))
            np.testing.assert_allclose(action[:6], [1, 2, 3, *expected], atol=1e-6)
            assert action.dtype == np.float32
    np.testing.assert_array_equal(rotation_vector(np.zeros(3)), np.zeros(3))


def test_a_large_change_of_the_gripper_is_repeated_for_fifteen_steps():
    """Open, then closed for 20 steps, open again: the second change is seen only after the first has been repeated."""
    grips = run([1.0] * 2 + [0.0] * 20 + [1.0] * 20)
    assert grips == [0.0] * 2 + [1.0] * 15 + [0.0] * 5 + [-1.0] * 15 + [0.0] * 5


def test_a_change_during_a_repetition_is_lost():
    grips = run([1.0, 0.0, 1.0] + [1.0] * 15)
    assert grips == [0.0] + [1.0] * 15 + [0.0] * 2


def test_small_changes_pass_once_and_partial_ones_keep_their_size():
    np.testing.assert_allclose(run([0.5, 0.1, 0.1]), [0, 0.4, 0], atol=1e-6)
    np.testing.assert_allclose(run([0.75, 0.0, 0.0]), [0, 0.75, 0.75], atol=1e-6)


def test_a_reset_forgets_the_gripper():
    convention = GoogleRobotConvention()
    open_hand, closed = np.array([0.0] * 6 + [1.0]), np.zeros(7)
    convention.action(open_hand)
    assert convention.action(closed)[6] == 0.0
    convention.reset()
    assert convention.action(closed)[6] == 0.5


def test_widowx_opens_absolutely():
    for opening in (0.0, 0.3, 1.0, 0.3):
        assert WidowXConvention().action(np.array([0.0] * 6 + [opening]))[6] == np.float32(opening)


def test_states_are_those_of_the_datasets():
    google = GoogleRobotConvention().state(STATES)
    np.testing.assert_allclose(google, [*POSE, 0.36, -0.48, 0.0, 0.8, 0.75])
    widowx = WidowXConvention().state(STATES)
    angles = Rotation.from_quat([0.36, -0.48, 0.0, 0.8]).as_euler("xyz")
    np.testing.assert_allclose(widowx, [*POSE, *angles, 0.25], atol=1e-6)
    assert google.dtype == widowx.dtype == np.float32


@pytest.mark.parametrize("name", ["simpler_google", "simpler_widowx"])
def test_wrong_numbers_are_refused(name):
    convention = make_convention(name)
    with pytest.raises(ValueError, match=r"`action` is .*7 finite numbers"):
        convention.action(np.zeros(6))
    with pytest.raises(ValueError, match="`action` is"):
        convention.action(np.full(7, np.nan))
    with pytest.raises(ValueError, match="`states` is"):
        convention.state(np.zeros(7))
    with pytest.raises(ValueError, match=r"quaternion .*length 0"):
        convention.state(np.zeros(8))


class GoogleRobotSimulator:
    """Has the interface and the observations of the original simulator; the instruction changes at step 20."""

    def __init__(self) -> None:
        self.actions: list[np.ndarray] = []
        self.unwrapped = self
        self.agent = types.SimpleNamespace(get_gripper_closedness=lambda: 0.75)

    def get_language_instruction(self) -> str:
        return "pick coke can"

    def reset(self, **kwargs: Any) -> tuple[dict, dict]:
        self.actions = []
        return self.observation(), {}

    def step(self, action: np.ndarray) -> tuple[dict, float, bool, bool, dict]:
        self.actions.append(np.asarray(action))
        return self.observation(), 0.0, False, len(self.actions) == 40, {}

    def observation(self) -> dict[str, Any]:
        def camera(height: int, width: int) -> dict[str, np.ndarray]:
            return {
                "rgb": np.full((height, width, 3), 90, np.uint8),
                "depth": np.zeros((height, width, 1), np.float32),
                "Segmentation": np.zeros((height, width, 4), np.uint32),
            }

        return {
            "image": {"overhead_camera": camera(512, 640), "base_camera": camera(128, 128)},
            "agent": {
                "qpos": np.zeros(11, np.float32),
                "qvel": np.zeros(11, np.float32),
                "base_pose": np.array([1, 2, 0, 1, 0, 0, 0], np.float32),
                "controller": {"gripper": {"target_qpos": np.zeros(2, np.float32)}},
            },
            "extra": {"tcp_pose": np.array([1.4, 1.9, 0.8, *QUATERNION_WXYZ], np.float32)},
        }

    def close(self) -> None:
        pass


@pytest.fixture
def simulator(monkeypatch: pytest.MonkeyPatch) -> GoogleRobotSimulator:
    fake = GoogleRobotSimulator()
    names = [
        "simpler_env",
        "simpler_env.utils",
        "simpler_env.utils.env",
        "simpler_env.utils.env.observation_utils",
    ]
    for name in names:
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    sys.modules[names[0]].make = lambda task, **kwargs: fake
    sys.modules[names[-1]].get_image_from_maniskill2_obs_dict = lambda env, seen: seen["image"][
        "overhead_camera"
    ]["rgb"]
    return fake


def test_a_served_policy_moves_the_google_robot_through_the_harness(simulator, tmp_path):
    """The policy opens the hand, closes it at step 5, and gets a new instruction at step 30."""
    from lerobot_lara.serving.policy_server import PolicyServer

    checkpoint = save_checkpoint(tmp_path, state=8, action=7)
    server = PolicyServer(
        checkpoint,
        image_keys={"primary": "observation.image"},
        resize=True,
        convention="simpler_google",
        n_action_steps=1,
    )
    assert server.metadata()["fps"] == 3
    seen = []

    def predict(observations, contexts):
        (one,) = observations
        seen.append(one)
        opening = 1.0 if len(seen) <= 5 else 0.0
        return np.array([[[0.01, 0, 0, 0, 0, np.pi / 2, opening]]], np.float32)

    server._predict_chunks = predict
    benchmark = SimplerEnvBenchmark(
        task_name="google_robot_pick_coke_can", send_state=True, gripper_mode="sticky", seed=0
    )
    make_obs = benchmark.make_obs

    def changing(raw: Any, task: Any) -> dict:
        changed = {"task_description": "move near"} if len(simulator.actions) >= 30 else {}
        return make_obs(raw, task) | changed

    benchmark.make_obs = changing

    async def play(url: str) -> dict:
        async with Connection(url, max_retries=1) as connection:
            return await SyncEpisodeRunner().run_episode(
                benchmark, {"name": "coke", "episode_idx": 0}, connection, max_steps=40
            )

    with running(server) as url:
        result = run_client(play, url)
    assert (result["steps"], result["metrics"]) == (40, {"success": False})
    assert {one["task"] for one in seen} == {"pick coke can", "move near"}
    assert seen[0]["images"]["observation.image"].shape == (512, 640, 3)
    np.testing.assert_allclose(seen[0]["state"], [*POSE, 0.36, -0.48, 0.0, 0.8, 0.75], atol=1e-6)
    actions = np.stack(simulator.actions)
    np.testing.assert_allclose(actions[:, :6], [[0.01, 0, 0, 0, 0, np.pi / 2]] * 40, atol=1e-6)
    assert actions[:, 6].tolist() == [0.0] * 5 + [1.0] * 15 + [0.0] * 20


def test_a_new_instruction_forgets_the_gripper(tmp_path):
    from lerobot_lara.serving.policy_server import PolicyServer

    server = PolicyServer(
        save_checkpoint(tmp_path, state=8, action=7), convention="simpler_google", n_action_steps=1
    )
    openings = iter([1.0, 0.0, 0.0])
    server._predict_chunks = lambda *_: np.array([[[0] * 6 + [next(openings)]]], np.float32)

    async def play(url: str) -> list[float]:
        async with Connection(url, max_retries=1) as connection:
            await connection.start_episode({})
            grips = []
            for task in ("a", "a", "b"):
                seen = {
                    "images": {"image": np.zeros((32, 32, 3), np.uint8)},
                    "states": STATES,
                    "task_description": task,
                }
                grips.append(float((await connection.act(seen))["actions"][6]))
            return grips

    with running(server) as url:
        assert run_client(play, url) == [0.5, 0.0, 0.5]
