"""GR1 tabletop for vla-eval, with a fake simulator whose observations have the measured names and shapes."""

import importlib.util
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from support.served import run_client, running, save_checkpoint
from vla_eval.connection import Connection
from vla_eval.runners.sync_runner import SyncEpisodeRunner

import lerobot_lara

FILE = Path(lerobot_lara.__file__).parent / "serving" / "benchmarks" / "gr1_tabletop.py"
SIZES = {"left_arm": 7, "right_arm": 7, "left_hand": 6, "right_hand": 6, "waist": 3}
INSTRUCTION = "unlocked_waist: pick the cup from the counter and place it in the plate"


class Simulator(gym.Env):
    """Succeeds in the third step, and would go on."""

    made: list[str] = []

    def __init__(self, enable_render: bool) -> None:
        assert enable_render
        self.observation_space = gym.spaces.Dict({})
        self.action_space = gym.spaces.Dict(
            {f"action.{name}": gym.spaces.Box(-1, 1, (size,), np.float32) for name, size in SIZES.items()}
        )
        Simulator.made.append(self)
        self.seeds, self.actions, self.closed = [], [], False

    def observation(self) -> dict[str, Any]:
        state = {
            f"state.{name}": np.full(size, i, np.float32) for i, (name, size) in enumerate(SIZES.items())
        }
        names = ("video.ego_view_pad_res256_freq20", "video.ego_view_bg_crop_pad_res256_freq20")
        video = {name: np.full((256, 256, 3), 10 * (i + 1), np.uint8) for i, name in enumerate(names)}
        return {**state, **video, "annotation.human.coarse_action": INSTRUCTION}

    def reset(self, *, seed: Any = None, options: Any = None) -> tuple[dict, dict]:
        self.seeds.append(seed)
        self.actions = []
        return self.observation(), {"success": False, "grasp_distractor_obj": False}

    def step(self, action: dict[str, np.ndarray]) -> tuple[dict, float, bool, bool, dict]:
        assert {name: part.shape for name, part in action.items()} == {
            name: space.shape for name, space in self.action_space.items()
        }
        self.actions.append(action)
        success = np.bool_(len(self.actions) == 3)
        return (
            self.observation(),
            float(success),
            False,
            False,
            {"success": success, "grasp_distractor_obj": True},
        )

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def benchmark_class(monkeypatch: pytest.MonkeyPatch):
    spec = importlib.util.spec_from_file_location("gr1_tabletop", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setitem(sys.modules, "fake_gr1", types.ModuleType("fake_gr1"))
    Simulator.made = []
    for task in ("PnPCupToDrawerClose", "PnPCanToDrawerClose"):
        env_id = f"gr1_unified/{task}_GR1ArmsAndWaistFourierHands_Env"
        monkeypatch.setitem(
            gym.registry, env_id, gym.envs.registration.EnvSpec(env_id, Simulator, disable_env_checker=True)
        )
    return module.GR1TabletopBenchmark


def test_it_imports_where_neither_torch_nor_lerobot_is():
    program = (
        f"import sys; sys.path.insert(0, {str(FILE.parent)!r})\n"
        "for name in ('torch', 'lerobot', 'lerobot_lara', 'gymnasium', 'robocasa_gr1'): sys.modules[name] = None\n"
        "from gr1_tabletop import GR1TabletopBenchmark\n"
        "assert len(GR1TabletopBenchmark().get_tasks()) == 6\n"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_a_served_policy_moves_the_robot(benchmark_class, tmp_path):
    from lerobot_lara.serving.policy_server import PolicyServer

    benchmark = benchmark_class(tasks=["PnPCupToDrawerClose"], seed=7, simulator="fake_gr1")
    assert benchmark.get_metadata()["max_steps"] == 720
    server = PolicyServer(
        save_checkpoint(tmp_path, state=29, action=29),
        image_keys={"ego_view": "observation.image"},
        resize=True,
    )
    predict, seen = server._predict_chunks, []

    def keep(observations, contexts):
        seen.append((observations[0], predict(observations, contexts)))
        return seen[-1][1]

    server._predict_chunks = keep

    async def play(url: str) -> dict:
        async with Connection(url, max_retries=1) as connection:
            return await SyncEpisodeRunner().run_episode(
                benchmark, {**benchmark.get_tasks()[0], "episode_idx": 2}, connection, max_steps=10
            )

    with running(server) as url:
        result = run_client(play, url)
    assert result["steps"] == 3
    assert result["metrics"] == {"success": True, "grasped_distractor": True}
    (simulator,) = Simulator.made
    assert simulator.seeds == [9]
    observation, chunk = seen[0]
    assert observation["task"] == INSTRUCTION
    assert observation["images"]["observation.image"][0, 0, 0] == 20
    np.testing.assert_array_equal(observation["state"], np.repeat(range(5), list(SIZES.values())))
    for i, sent in enumerate(simulator.actions):
        np.testing.assert_array_equal(np.concatenate(list(sent.values())), chunk[0, i])
        assert list(sent) == [f"action.{name}" for name in SIZES]
    benchmark.cleanup()
    assert simulator.closed


def test_the_simulator_is_made_once_per_task(benchmark_class):
    benchmark = benchmark_class(
        camera="video.ego_view_pad_res256_freq20", send_state=False, simulator="fake_gr1", tasks=["a"]
    )
    for name in ("PnPCupToDrawerClose", "PnPCupToDrawerClose", "PnPCanToDrawerClose"):
        seen = benchmark.make_obs(benchmark.reset({"name": name}), {})
    assert [simulator.closed for simulator in Simulator.made] == [True, False]
    assert set(seen) == {"images", "task_description"}
    assert seen["images"]["ego_view"][0, 0, 0] == 10


@pytest.mark.parametrize("action", [np.zeros(28), np.full(29, np.nan)])
def test_wrong_actions_are_refused(benchmark_class, action):
    benchmark = benchmark_class(simulator="fake_gr1")
    benchmark.reset({"name": "PnPCupToDrawerClose"})
    with pytest.raises(ValueError, match=r"29 finite numbers: left_arm, right_arm"):
        benchmark.step({"actions": action})
