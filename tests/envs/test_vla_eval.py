"""The environment type `vla_eval`, with the real harness in another process and a benchmark of a few lines."""

import os
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import draccus
import numpy as np
import pytest
from lerobot.envs.configs import EnvConfig
from lerobot.envs.factory import make_env
from lerobot.envs.utils import NEW_ROLLOUT_OPTION, close_envs, env_to_policy_features
from support.helpers import run_eval
from support.served import save_checkpoint

from lerobot_lara.envs.configuration_vla_eval import VlaEvalEnvConfig

SUPPORT = Path(__file__).parents[1] / "support"
TOY = "benchmarks:\n  - benchmark: toy_benchmark:PointBenchmark\n    params: {size: 8}\n"
HALF = np.array([0.5, 0], np.float32)
ZERO = np.zeros(2, np.float32)


@pytest.fixture
def config(tmp_path: Path):
    """Returns a maker of configurations for the toy benchmark."""
    file = tmp_path / "toy.yaml"
    file.write_text(TOY)

    def make(**fields: Any) -> VlaEvalEnvConfig:
        defaults = {"python": sys.executable, "python_path": str(SUPPORT), "config_file": str(file)}
        sizes = {"image_size": [8, 9], "state_dim": 2, "action_dim": 2, "episode_length": 5, "task": "near"}
        return VlaEvalEnvConfig(**defaults | sizes | {"episodes": 3} | fields)

    return make


@pytest.fixture
def make(config):
    """Returns a maker of single environments that are closed after the test."""
    made = []

    def make_one(**fields: Any) -> Any:
        made.append(make_env(config(**fields), n_envs=1))
        (vector_env,) = next(iter(made[-1].values())).values()
        return vector_env.envs[0].unwrapped

    yield make_one
    for envs in made:
        close_envs(envs)


def test_observations_actions_and_outcomes_pass_between_the_processes(make):
    env = make(episodes=3)
    observation, info = env.reset()
    assert info == {"task": "near", "is_success": False}
    assert env.task_description == "go"
    assert observation in env.observation_space
    np.testing.assert_array_equal(observation["pixels"], np.full((8, 9, 3), 50, np.uint8))
    np.testing.assert_array_equal(env.render(), observation["pixels"])
    np.testing.assert_array_equal(observation["agent_pos"], [0.5, 0])
    observation, reward, terminated, truncated, info = env.step(np.array([0.25, 0]))
    assert (reward, terminated, truncated, info["is_success"]) == (0.0, False, False, False)
    assert "final_info" not in info
    np.testing.assert_array_equal(observation["agent_pos"], [0.75, 0])
    observation, reward, terminated, truncated, info = env.step(np.array([0.25, 0]))
    assert (reward, terminated, truncated, info["is_success"]) == (1.0, True, False, True)
    assert info["final_info"] == {
        "task": "near", "is_success": True, "metrics": {"success": 1.0, "position": 1.0}
    }  # fmt: skip
    with pytest.raises(ValueError, match="Call `reset` first"):
        env.step(ZERO)

    # The second episode fails, the third is given up in its middle, and there is no fourth.
    assert env.reset()[0]["agent_pos"].tolist() == [0.5, 1]
    ends = [env.step(ZERO) for _ in range(5)]
    assert [(terminated, truncated) for _, _, terminated, truncated, _ in ends] == [(False, False)] * 4 + [
        (False, True)
    ]
    assert ends[-1][4]["final_info"]["is_success"] is False and ends[-1][4]["is_success"] is False
    assert env.reset()[0]["agent_pos"].tolist() == [0.5, 2]
    env.step(ZERO)
    with pytest.raises(
        ValueError, match=r"(?s)has ended \(status 0\).*end of its log.*larger --env.episodes"
    ):
        env.reset()


@pytest.mark.e2e
def test_lerobot_eval_plays_every_task(config, tmp_path):
    """Several copies share the episodes; a policy that does not move fails where it starts too far away."""
    checkpoint = save_checkpoint(tmp_path / "policy", state=2, action=2)
    fields = config()
    results = run_eval(
        policy__path=checkpoint,
        env__type="vla_eval",
        env__task="near,far",
        env__python_path=SUPPORT,
        env__config_file=fields.config_file,
        env__image_size="[8,9]",
        env__state_dim=2,
        env__action_dim=2,
        env__episode_length=5,
        env__episodes=3,
        eval__n_episodes=3,
        eval__batch_size=2,
        output_dir=tmp_path / "out",
    )
    assert [task["task_group"] for task in results["per_task"]] == ["near", "far"]
    assert all(len(task["metrics"]["successes"]) == 3 for task in results["per_task"])


@pytest.mark.parametrize("use_async_envs", [False, pytest.param(True, marks=pytest.mark.e2e)])
def test_copies_share_the_episodes_of_every_task(config, use_async_envs):
    (env,) = make_env(config(task="far", episodes=3), n_envs=2, use_async_envs=use_async_envs)["far"].values()
    seen = []
    for _ in range(2):
        observation, _ = env.reset(seed=[1, 2], options={NEW_ROLLOUT_OPTION: True})
        seen += observation["agent_pos"][:, 1].tolist()
        assert observation["pixels"].shape == (2, 8, 9, 3)
        _, _, _, _, info = env.step(np.stack([HALF, ZERO]))
        # The first copy has ended before the second, and waits.
        _, reward, terminated, truncated, info = env.step(np.stack([HALF, ZERO]))
        assert (terminated.tolist(), truncated.tolist(), reward.tolist()) == (
            [True, False],
            [False, False],
            [1, 0],
        )
        for _ in range(3):
            _, _, _, truncated, info = env.step(np.stack([ZERO, ZERO]))
        assert truncated.tolist() == [False, True]
        assert info["final_info"]["is_success"].tolist() == [True, False]
    assert sorted(seen) == [0, 1, 2, 3]
    env.close()


def test_all_tasks_are_played_in_turn_if_none_is_named(make):
    env = make(task="", episodes=1)
    starts = []
    for _ in range(2):
        starts.append(env.reset()[0]["agent_pos"].tolist())
        env.step(2 * HALF)
    assert starts == [[0.5, 0], [0, 0]]
    assert env.task == "PointBenchmark"


def test_the_instruction_may_change(make):
    env = make(params={"word": "open/close"})
    env.reset()
    assert env.task_description == "open"
    env.step(ZERO)
    assert env.task_description == "close"


def test_closing_and_resetting_starts_again(make):
    env = make()
    env.reset()
    env.step(ZERO)
    env.close()
    assert env.reset()[0]["agent_pos"].tolist() == [0.5, 0]


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"params": {"fault": "no_success"}}, r"`get_step_result` must return it"),
        ({"params": {"fault": "step"}}, "failed in step 2.*the arm has exploded"),
        ({"params": {"fault": "exit"}}, r"has ended \(status 7\)"),
        ({"params": {"fault": "hang"}, "step_timeout": 0.5}, "nothing for 0.5 seconds .*--env.step_timeout"),
    ],
)
def test_a_benchmark_that_fails_in_an_episode_is_no_result(make, fields, problem):
    env = make(**fields)
    env.reset()
    with pytest.raises(ValueError, match=f"(?s){problem}"):
        for _ in range(5):
            env.step(ZERO)


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"params": {"fault": "start"}}, "the scene is missing"),
        ({"params": {"colour": 1}}, "unexpected keyword argument 'colour'"),
        ({"task": "nowhere"}, "has ended .*check `task`"),
        ({"start_timeout": 0.01}, "nothing for 0.01 seconds .*--env.start_timeout"),
        ({"python_path": ""}, "No module named 'toy_benchmark'"),
        ({"python": "sh"}, "has ended"),
        ({"image_size": [8, 8]}, r"\(8, 9, 3\), not uint8 \(8, 8, 3\): --env.image_size='\[8, 9\]'"),
        ({"state_dim": 3}, r"shape \(2,\), not \(3,\): --env.state_dim=2"),
        ({"cameras": {"wrist": "observation.image"}}, "no camera 'wrist' among primary: --env.cameras"),
    ],
)
def test_a_benchmark_that_does_not_start_or_fit_says_why(make, fields, problem):
    env = make(**fields)
    with pytest.raises(ValueError, match=f"(?s){problem}"):
        env.reset()


def test_all_that_does_not_fit_is_in_one_message(make):
    with pytest.raises(ValueError, match=r"(?s)image_size.*state_dim=2"):
        make(image_size=[4, 4], state_dim=1).reset()


@pytest.mark.parametrize("action", [[np.nan, 0], [1], [[1, 2]]])
def test_wrong_actions_are_not_sent(make, action):
    env = make()
    env.reset()
    with pytest.raises(ValueError, match="`action` is"):
        env.step(np.array(action))


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"python": "/no/python"}, "`python` is '/no/python'"),
        ({"config_file": ""}, "`config_file` is ''"),
        ({"config_file": "/no/file.yaml"}, "`config_file` is '/no/file.yaml'"),
    ],
)
def test_missing_files_are_found_before_anything_starts(config, fields, problem):
    with pytest.raises(ValueError, match=problem):
        make_env(config(**fields), n_envs=1)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("benchmarks: [", "cannot be read"),
        ("benchmarks: []", "0 entries"),
        ("docker: {}", "no entries"),
        (TOY + "  - benchmark: toy_benchmark:PointBenchmark\n", "2 entries"),
        ("benchmarks: [{params: {}}]", "`benchmark` None"),
    ],
)
def test_a_file_that_is_no_benchmark_is_refused(config, tmp_path, text, problem):
    file = tmp_path / "bad.yaml"
    file.write_text(text)
    with pytest.raises(ValueError, match=problem):
        make_env(config(config_file=str(file)), n_envs=1)


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"episodes": 0}, "`episodes` is 0"),
        ({"step_timeout": -1.0}, "`step_timeout` is -1"),
        ({"state_dim": -1}, "`state_dim` is -1"),
        ({"image_size": [3]}, "`image_size`"),
        ({"cameras": {}}, "`cameras`"),
        ({"cameras": {"a": "front"}}, "`cameras`"),
        ({"cameras": {"a": "observation.image", "b": "observation.images.b"}}, "`cameras`"),
        ({"cameras": {"a": "observation.images.b", "b": "observation.images.b"}}, "`cameras`"),
        ({"task": "near,near"}, "more than once"),
        ({"convention": "panda"}, "`convention` is 'panda'"),
        ({"convention": "simpler_google"}, "--env.action_dim=7 --env.state_dim=8"),
    ],
)
def test_wrong_fields_are_refused(config, fields, problem):
    with pytest.raises(ValueError, match=problem):
        config(**fields)


@dataclass
class Command:
    env: EnvConfig


def test_configuration_survives_the_command_line_and_a_saved_file():
    arguments = (
        "--env.type=vla_eval --env.task=a,b --env.state_dim=8 --env.image_size=[4,6] "
        "--env.params={send_state:\\ true} --env.cameras={agentview:\\ observation.images.image}"
    )
    config = draccus.parse(Command, args=shlex.split(arguments)).env
    assert (config.task_names(), config.params) == (["a", "b"], {"send_state": True})
    assert {key: tuple(feature.shape) for key, feature in env_to_policy_features(config).items()} == {
        "action": (7,),
        "observation.state": (8,),
        "observation.images.image": (3, 4, 6),
    }
    assert draccus.decode(Command, draccus.encode(Command(config))).env == config


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return "\nState:\tZ" not in Path(f"/proc/{process}/status").read_text()


def _await_end(processes: list[int]) -> None:
    end = time.monotonic() + 20
    while any(map(_alive, processes)):
        assert time.monotonic() < end, "processes are left"
        time.sleep(0.05)


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="looks into /proc")
def test_closing_ends_the_benchmark_and_its_children(make, tmp_path):
    env = make(params={"pid_file": str(tmp_path / "pids")})
    env.reset()
    processes = [int(one) for one in (tmp_path / "pids").read_text().split()]
    folder = Path(env._harness.folder.name)
    assert len(processes) == 2 and all(map(_alive, processes)) and folder.exists()
    env.close()
    _await_end(processes)
    assert not folder.exists()


@pytest.mark.e2e
@pytest.mark.skipif(not Path("/proc/self").exists(), reason="looks into /proc")
def test_a_kill_ends_the_benchmark_and_its_children(config, tmp_path):
    fields = config(params={"pid_file": str(tmp_path / "pids")})
    program = f"""
import sys
from lerobot.envs.factory import make_env
from lerobot_lara import VlaEvalEnvConfig
env = make_env(VlaEvalEnvConfig(**{_fields(fields)!r}), n_envs=1)["near"][0]
env.reset()
sys.stdin.read()
"""
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    end = time.monotonic() + 60
    while not (tmp_path / "pids").exists():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < end
        time.sleep(0.1)
    time.sleep(0.5)
    processes = [int(one) for one in (tmp_path / "pids").read_text().split()]
    process.send_signal(signal.SIGKILL)
    process.wait()
    _await_end(processes)


def _fields(config: VlaEvalEnvConfig) -> dict[str, Any]:
    return {name: value for name, value in vars(config).items() if not name.startswith("features")}
