"""`lara benchmark`: cells, their figures and the page."""

import functools
import json
import math
from dataclasses import dataclass, field, replace
from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import pytest
from lerobot.configs import FeatureType, PolicyFeature
from lerobot.configs.default import EvalConfig
from lerobot.envs.configs import EnvConfig
from lerobot.envs.utils import freeze_after_episode_end

from lerobot_lara.cli import main
from lerobot_lara.cli.benchmark import _named
from lerobot_lara.dit.configuration_lara_dit import LaraDiTConfig
from lerobot_lara.envs.demonstration_sources import SOURCES
from lerobot_lara.evaluation.benchmark import cell as cells
from lerobot_lara.evaluation.benchmark import run
from lerobot_lara.evaluation.benchmark.cell import CellConfig, play_cell
from lerobot_lara.evaluation.benchmark.fit import check_fit, compare_rates
from lerobot_lara.evaluation.benchmark.report import (
    describe_difference,
    markdown_table,
    notices,
    write_report,
)
from lerobot_lara.evaluation.benchmark.results import collect_results, compare, summarize
from lerobot_lara.evaluation.benchmark.run import Benchmark, list_jobs
from lerobot_lara.evaluation.benchmark.suites import SUITES, Suite, custom_suite
from lerobot_lara.policy import checkpoint_files


class DoorEnv(gym.Env):
    """Opens by itself after three steps in episodes of an even seed, and is touched in every episode."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 5}
    observation_space = gym.spaces.Dict({"agent_pos": gym.spaces.Box(-1, 1, (2,), np.float64)})
    action_space = gym.spaces.Box(-1, 1, (3,), np.float32)
    task = task_description = "open"
    _max_episode_steps = 5
    render_mode = "rgb_array"

    def __init__(self, silent=False):
        self.silent = silent

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.seed, self.steps = seed, 0
        return {"agent_pos": np.zeros(2)}, self._info(False)

    def _info(self, success):
        return {} if self.silent else {"is_success": success, "touched": self.steps > 0}

    def step(self, action):
        self.steps += 1
        success = self.seed % 2 == 0 and self.steps == 3
        info = self._info(success)
        truncated = self.steps >= self._max_episode_steps
        if success or truncated:
            info["final_info"] = dict(info)
        return {"agent_pos": np.zeros(2)}, 0.0, success, truncated, info

    def render(self):
        return np.full((16, 16, 3), 40 * self.steps, np.uint8)


@EnvConfig.register_subclass("benchmark_test")
@dataclass
class DoorEnvConfig(EnvConfig):
    silent: bool = False
    stays_at_end: bool = True
    tasks: int = 1
    features: dict = field(default_factory=lambda: {"action": PolicyFeature(FeatureType.ACTION, (3,))})

    @property
    def gym_kwargs(self):
        return {}

    def create_envs(self, n_envs, use_async_envs=False):
        # Idle after the end of an episode, like this package's own, or at the start of the next, like LeRobot's.
        make_one, mode = functools.partial(DoorEnv, self.silent), gym.vector.AutoresetMode.SAME_STEP
        if self.stays_at_end:
            make_one, mode = freeze_after_episode_end(make_one), gym.vector.AutoresetMode.NEXT_STEP
        made = [gym.vector.SyncVectorEnv([make_one] * n_envs, autoreset_mode=mode) for _ in range(self.tasks)]
        return {"open": dict(enumerate(made))}


def config(tmp_path, *, silent=False, episodes=4, name="cell", **env):
    return CellConfig(
        env=DoorEnvConfig(task="open", silent=silent, **env),
        eval=EvalConfig(n_episodes=episodes, batch_size=1),
        output_dir=tmp_path / name,
        seed=10,
        agent="zero",
    )


def test_a_cell_notes_success_steps_and_parts_of_every_episode(tmp_path):
    result = json.loads(play_cell(config(tmp_path)).read_text())
    assert [episode["seed"] for episode in result["episodes"]] == [10, 11, 12, 13]
    assert [episode["success"] for episode in result["episodes"]] == [True, False, True, False]
    assert [episode["steps"] for episode in result["episodes"]] == [3, 5, 3, 5]
    assert all(episode["reached"] == {"touched": True} for episode in result["episodes"])


def test_a_cell_remarks_that_the_policy_was_trained_at_another_rate(tmp_path):
    slow = config(tmp_path)
    slow.policy = LaraDiTConfig(device="cpu", fps=15.0)
    assert "are 2 times as fast" in json.loads(play_cell(slow).read_text())["remark"]
    assert json.loads(play_cell(config(tmp_path, name="other")).read_text())["remark"] is None


def test_lerobots_libero_asks_nothing_on_the_keyboard(tmp_path, monkeypatch):
    from lerobot.envs.configs import LiberoEnv

    from lerobot_lara.envs import libero_assets

    def prepared():
        raise InterruptedError("LIBERO's folders are named before it is imported")

    monkeypatch.setattr(libero_assets, "prepare_libero", prepared)
    with pytest.raises(InterruptedError):
        play_cell(replace(config(tmp_path), env=LiberoEnv(task="libero_spatial", task_ids=[0])))


def test_a_cell_films_the_first_success_and_the_first_failure_whole(tmp_path):
    from lerobot_lara.evaluation.report import read_frames

    play_cell(config(tmp_path))
    lengths = {}
    for name in ("first_success", "first_failure"):
        frames = read_frames(tmp_path / "cell" / f"{name}.mp4", 100)
        lengths[name] = len(frames)
        assert abs(int(frames[0].mean())) < 8 and abs(frames[-1].mean() - 40 * (len(frames) - 1)) < 12
    assert lengths == {"first_success": 4, "first_failure": 6}
    assert not (tmp_path / "cell" / "unfinished.mp4").exists()


def test_a_film_does_not_end_with_the_start_of_the_next_episode(tmp_path):
    from lerobot_lara.evaluation.report import read_frames

    result = json.loads(play_cell(config(tmp_path, stays_at_end=False)).read_text())
    assert [episode["steps"] for episode in result["episodes"]] == [3, 5, 3, 5]
    frames = read_frames(tmp_path / "cell" / "first_success.mp4", 100)
    assert [round(frame.mean() / 40) for frame in frames] == [0, 1, 2]


def test_a_group_of_tasks_is_no_cell(tmp_path):
    with pytest.raises(
        ValueError, match=r"`env.task` is 'open', which stands for 3 tasks of `benchmark_test`"
    ):
        play_cell(config(tmp_path, tasks=3))


def test_starting_states_that_are_counted_are_those_of_the_episode(tmp_path, monkeypatch):
    """LeRobot's LIBERO goes on to the next state at every reset, also of a run that has begun in the middle."""
    started = []

    def reset(self, *, seed=None, options=None):
        started.append((seed, self.init_state_id))
        self.init_state_id += 1
        return original(self, seed=seed, options=options)

    original = DoorEnv.reset
    monkeypatch.setattr(DoorEnv, "init_state_id", 0, raising=False)
    monkeypatch.setattr(DoorEnv, "reset", reset)
    (tmp_path / "cell" / "episodes").mkdir(parents=True)
    done = {"seed": 10, "success": True, "steps": 3, "reached": {}}
    (tmp_path / "cell" / "episodes" / "10.json").write_text(json.dumps(done))
    play_cell(config(tmp_path))
    assert started == [(11, 1), (12, 2), (13, 3)]


def test_an_interrupted_cell_goes_on_where_it_stopped(tmp_path, monkeypatch):
    make_agent, played = cells.make_agent, []

    def counting(name, cfg, env):
        agent = make_agent(name, cfg, env)

        def play(env, seed, after_frame):
            if seed == 12 and len(played) < 3:
                played.append("killed")
                raise KeyboardInterrupt
            played.append(seed)
            agent(env, seed, after_frame)

        return play

    monkeypatch.setattr(cells, "make_agent", counting)
    with pytest.raises(KeyboardInterrupt):
        play_cell(config(tmp_path))
    assert not (tmp_path / "cell" / "cell.json").exists()
    resumed = json.loads(play_cell(config(tmp_path)).read_text())
    assert played == [10, 11, "killed", 12, 13]
    monkeypatch.undo()
    assert resumed == json.loads(play_cell(config(tmp_path, name="undisturbed")).read_text())


def test_an_environment_that_does_not_report_success_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"not `is_success`; LeRobot would count every episode as solved"):
        play_cell(config(tmp_path, silent=True))


def test_actions_that_are_not_finite_are_refused(tmp_path, monkeypatch):
    def broken(name, cfg, env):
        def play(env, seed, after_frame):
            env.reset(seed=[seed])
            env.step(np.zeros((1, 3)))
            env.step(np.full((1, 3), np.nan))

        return play

    monkeypatch.setattr(cells, "make_agent", broken)
    with pytest.raises(ValueError, match=r"action at step 1 of the episode is .*not finite"):
        play_cell(config(tmp_path))


def test_an_expert_is_asked_for_only_where_there_is_one(tmp_path):
    with pytest.raises(
        ValueError, match=r"`env.type` is 'benchmark_test', for which there is no scripted expert"
    ):
        play_cell(replace(config(tmp_path), agent="expert"))


def test_an_expert_plays_every_episode_anew(tmp_path, monkeypatch):
    started = []

    def start_expert(env, observation):
        started.append(env.seed)
        assert env.steps == 0 and observation["agent_pos"].shape == (2,)
        return lambda observation: np.zeros(3, np.float32)

    source = SimpleNamespace(env_type="benchmark_test", start_expert=start_expert)
    monkeypatch.setitem(SOURCES, "toy", source)
    result = json.loads(play_cell(replace(config(tmp_path), agent="expert")).read_text())
    assert started == [10, 11, 12, 13]
    assert [episode["steps"] for episode in result["episodes"]] == [3, 5, 3, 5]


def test_everything_that_does_not_fit_is_in_one_message():
    from lerobot_lara.envs.configuration_simpler import SimplerEnvConfig

    policy = LaraDiTConfig(
        device="cpu",
        input_features={
            "observation.images.front": PolicyFeature(FeatureType.VISUAL, (3, 8, 8)),
            "observation.state": PolicyFeature(FeatureType.STATE, (4,)),
        },
        output_features={"action": PolicyFeature(FeatureType.ACTION, (4,))},
    )
    with pytest.raises(ValueError) as error:
        check_fit(policy, SimplerEnvConfig(), {})
    message = str(error.value)
    assert "needs the camera observation.images.front, and there is observation.image" in message
    assert """--rename_map='{"observation.image": "observation.images.front"}'""" in message
    assert "observation.state has 4 numbers, and here 8" in message
    assert "its actions have 4 numbers, and here 7" in message
    with pytest.raises(ValueError) as renamed:
        check_fit(policy, SimplerEnvConfig(), {"observation.image": "observation.images.front"})
    assert "camera" not in str(renamed.value)
    policy.input_features["observation.state"].shape = (8,)
    policy.output_features["action"].shape = (7,)
    check_fit(policy, SimplerEnvConfig(), {"observation.image": "observation.images.front"})


def test_cameras_that_a_policy_fills_itself_are_not_asked_for():
    from lerobot_lara.envs.configuration_simpler import SimplerEnvConfig

    camera = PolicyFeature(FeatureType.VISUAL, (3, 8, 8))
    policy = LaraDiTConfig(
        device="cpu",
        input_features={"observation.image": camera, "observation.images.empty_camera_0": camera},
        output_features={"action": PolicyFeature(FeatureType.ACTION, (7,))},
    )
    check_fit(policy, SimplerEnvConfig(), {})


def test_actions_that_the_policys_own_step_converts_are_not_compared():
    from lerobot.policies.xvla.configuration_xvla import XVLAConfig

    from lerobot_lara.envs.configuration_libero_fast import LiberoFastEnvConfig

    policy = XVLAConfig(device="cpu", output_features={"action": PolicyFeature(FeatureType.ACTION, (20,))})
    check_fit(policy, LiberoFastEnvConfig(), {})


def test_the_state_that_libero_assembles_in_its_own_step_is_no_mismatch():
    from lerobot_lara.envs.configuration_libero_fast import LiberoFastEnvConfig

    policy = LaraDiTConfig(
        device="cpu",
        input_features={
            "observation.images.image": PolicyFeature(FeatureType.VISUAL, (3, 8, 8)),
            "observation.state": PolicyFeature(FeatureType.STATE, (8,)),
        },
        output_features={"action": PolicyFeature(FeatureType.ACTION, (7,))},
    )
    check_fit(policy, LiberoFastEnvConfig(), {})
    assert compare_rates(policy, LiberoFastEnvConfig()) is None
    policy.fps = 20.0
    assert compare_rates(policy, LiberoFastEnvConfig()) is None
    policy.fps = 10.0
    remark = compare_rates(policy, LiberoFastEnvConfig())
    assert remark is not None
    assert "10 frames per second, and `libero_fast` takes 20" in remark and "are 2 times as fast" in remark
    policy.input_features["observation.state"].shape = (9,)
    with pytest.raises(ValueError, match=r"observation.state has 9 numbers, and here 8\. "):
        check_fit(policy, LiberoFastEnvConfig(), {})
    policy.input_features["observation.state"].shape = (8,)
    policy.output_features["action"].shape = (4,)
    with pytest.raises(ValueError, match=r"fast` gives: its actions have 4 numbers, and here 7\. "):
        check_fit(policy, LiberoFastEnvConfig(), {})


def test_summary_counts_and_averages():
    episodes = [
        {"success": True, "steps": 10, "reached": {"grasped": True}},
        {"success": False, "steps": 60, "reached": {"grasped": True}},
        {"success": False, "steps": 60, "reached": {"grasped": False}},
        {"success": False, "steps": 50, "reached": {}},
    ]
    summary = summarize(episodes)
    assert (summary["successes"], summary["episodes"], summary["rate"]) == (1, 4, 0.25)
    assert summary["mean_steps"] == 45 and summary["reached"] == {"grasped": 0.5}
    # Wilson's score interval, written out.
    z = 1.959964
    center = (0.25 + z**2 / 8) / (1 + z**2 / 4)
    half = z / (1 + z**2 / 4) * math.sqrt(0.25 * 0.75 / 4 + z**2 / 64)
    assert summary["low"] == pytest.approx(center - half, abs=1e-4)
    assert summary["high"] == pytest.approx(center + half, abs=1e-4)


def test_differences_are_of_the_same_episodes():
    first = {"a": [True, True, True, False], "b": [True, True]}
    second = {"a": [False, True, False, False], "b": [False, False]}
    found = compare(first, second)
    assert found["difference"] == pytest.approx(4 / 6)
    assert (found["only_first"], found["only_second"]) == (4, 0)
    assert found["p_value"] == pytest.approx(2 * 0.5**4)
    assert found["low"] > 0 and found["high"] > found["difference"]
    back = compare(second, first)
    assert back["difference"] == pytest.approx(-4 / 6) and back["only_second"] == 4
    assert compare(first, first)["p_value"] == 1
    with pytest.raises(ValueError):
        compare(first, {"a": [True], "b": [True, True]})
    single = compare({"a": [True]}, {"a": [False]})
    assert (single["difference"], single["low"], single["high"]) == (1, None, None)
    described = describe_difference({"first": "x", "second": "y", **single})
    assert described == "x − y: +100 points in one episode, which can be chance."


@pytest.fixture
def finished(tmp_path, monkeypatch):
    """A benchmark whose cells were played by hand: a policy that is as good as none, the expert and doing nothing."""
    monkeypatch.setattr(Suite, "has_expert", True)
    suite = Suite("benchmark_test", ("open",), note="A note.")
    benchmark = Benchmark(suite, {"mine": "some/checkpoint"}, episodes=4, seed=10)
    for agent in benchmark.agents:
        play_cell(replace(config(tmp_path), output_dir=tmp_path / "cells" / agent / "open"))
    return benchmark, tmp_path


def test_results_and_page_show_every_agent(finished):
    benchmark, folder = finished
    path = folder / "cells" / "mine" / "open" / "cell.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "remark": "Too fast."}))
    results = collect_results(benchmark, folder)
    assert list(results["agents"]) == ["mine", "expert", "zero"]
    assert results["agents"]["mine"]["all"]["successes"] == 2
    assert results["outcomes"]["zero"] == {"open": [True, False, True, False]}
    assert [entry["difference"] for entry in results["differences"]] == [0, 0, 0]
    assert notices(results) == [
        "mine: Too fast.",
        "A robot that does nothing is counted as successful in 2 of 4 episodes: success there proves nothing.",
    ]
    page = write_report(json.loads(json.dumps(results)), folder).read_text()
    assert "2/4 (50 %)" in page and "A note." in page and "touched" in page
    assert page.count("<video") == 4, "first success and failure of the policy and the expert"
    assert "data:video/mp4;base64," in page and "success there proves nothing" in page
    table = (folder / "table.md").read_text()
    assert table == markdown_table(results)
    assert "| mine | 50 (15–85) | 50 (15–85) |" in table


def test_a_missing_cell_is_named(finished):
    benchmark, folder = finished
    (folder / "cells" / "mine" / "open" / "cell.json").unlink()
    with pytest.raises(ValueError, match=r"mine/open/cell\.json is missing"):
        collect_results(benchmark, folder)


def test_all_agents_meet_the_same_episodes_and_only_policies_get_their_flags(tmp_path):
    benchmark = Benchmark(
        SUITES["simpler-widowx"].only("widowx_stack_cube"),
        {"mine": "you/lara"},
        episodes=24,
        flags=("--env.image_width=128",),
        policy_flags=("--policy.n_action_steps=4",),
    )
    jobs = {job.name: job.command for job in list_jobs(benchmark, tmp_path)}
    assert list(jobs) == ["mine.widowx_stack_cube", "expert.widowx_stack_cube", "zero.widowx_stack_cube"]
    for command in jobs.values():
        assert {"--seed=1000", "--eval.n_episodes=24", "--env.image_width=128"} <= set(command)
        assert ("--policy.n_action_steps=4" in command) == ("--policy.path=you/lara" in command)
    without = replace(benchmark, zero=False, expert=False)
    assert [job.name for job in list_jobs(without, tmp_path)] == ["mine.widowx_stack_cube"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--suite=simpler-widowx --tasks=widowx_stack_cub", "Did you mean widowx_stack_cube"),
        ("--env=maniskill --tasks=a", "`env` is 'maniskill'; it must be one of"),
        ("--env=pusht", "`tasks` is empty"),
        ("--suite=metaworld-mt5 --episodes=0", "`episodes` is 0"),
        ("--suite=metaworld-mt5 --workers=0", "`workers` is 0"),
        ("a=x a=y --suite=metaworld-mt5", "`policies` has the name 'a' twice"),
        ("zero=x --suite=metaworld-mt5", "`policies` has the name 'zero'"),
        ("--suite=libero-goal --no-zero", "`policies` is empty, and there is neither an expert"),
        ("mine=no/such --suite=metaworld-mt5", "`policies` has 'no/such', which is no folder, and the Hub"),
        ("out/puts/typo --suite=metaworld-mt5", "`policies` has 'out/puts/typo', which is no folder"),
        ("--suite=metaworld-mt5 --flag=env.image_size=8", "`flag` is 'env.image_size=8'"),
    ],
)
def test_bad_arguments_are_reported_in_a_sentence(tmp_path, capsys, arguments, message):
    assert main(["benchmark", *arguments.split(), f"--out={tmp_path / 'out'}"]) == 2
    assert message in capsys.readouterr().err


def test_all_cells_play_the_version_that_the_hub_had_at_the_start(tmp_path, monkeypatch):
    monkeypatch.setattr(
        checkpoint_files, "snapshot_download", lambda name, allow_patterns: f"/cache/{name}/snapshots/c0ffee"
    )
    benchmark = Benchmark(SUITES["metaworld-mt5"], {"mine": "you/lara", "here": str(tmp_path)}, episodes=1)
    local = run.with_local_policies(benchmark)
    assert local.policies == {"mine": "/cache/you/lara/snapshots/c0ffee", "here": str(tmp_path)}
    assert benchmark.policies["mine"] == "you/lara", "the report shows what was asked for"


def test_a_cell_that_fails_is_reported_with_its_log_and_not_as_a_bug(tmp_path, capsys):
    arguments = [
        "benchmark",
        "--env=benchmark_test",
        "--tasks=open",
        f"--out={tmp_path / 'out'}",
        "--episodes=1",
    ]
    assert main(arguments) == 1  # another process does not know the type
    told = capsys.readouterr().err
    assert "zero on open failed: exit status" in told and "bug of" not in told


def test_a_checkpoint_whose_name_has_the_sign_is_no_name(tmp_path):
    folder = tmp_path / "lr=1e-4"
    folder.mkdir()
    assert _named([str(folder), f"b={folder}", "c=you/lara"]) == {
        "policy": str(folder),
        "b": str(folder),
        "c": "you/lara",
    }


def test_every_file_of_a_checkpoint_counts(tmp_path):
    for name in ("config.json", "model.safetensors", "policy_preprocessor_step_3.safetensors", "README.md"):
        (tmp_path / name).write_text("x")
    benchmark = Benchmark(
        SUITES["metaworld-mt5"], {"mine": str(tmp_path)}, episodes=1, zero=False, expert=False
    )
    inputs = {path.name for path in list_jobs(benchmark, tmp_path / "out")[0].inputs}
    assert inputs == {"config.json", "model.safetensors", "policy_preprocessor_step_3.safetensors"}


def test_groups_of_tasks_are_cells_of_their_own():
    assert custom_suite("simpler", "widowx").tasks == SUITES["simpler-widowx"].tasks
    assert custom_suite("pusht", "PushT-v0").tasks == ("PushT-v0",)


def test_a_suite_has_an_expert_if_there_is_one_for_all_its_tasks():
    assert SUITES["libero-spatial"].has_expert and not SUITES["libero-goal"].has_expert
    assert custom_suite("libero_fast", "libero_object_1").has_expert
    assert not custom_suite("libero_fast", "libero_object_1,libero_goal_1").has_expert
    assert not custom_suite("pusht", "PushT-v0").has_expert
