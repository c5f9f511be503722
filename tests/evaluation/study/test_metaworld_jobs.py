import json

import pytest
import yaml

from lerobot_lara.evaluation.study.metaworld_jobs import MetaworldJobs, read_outcomes, write_mixture_file


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "dit.yaml"
    path.write_text(yaml.safe_dump({"policy": {"n_action_steps": 8}}))
    return path


@pytest.fixture
def study(tmp_path):
    return MetaworldJobs(
        tmp_path / "study",
        namespace="ours",
        tasks=("door-close-v3", "drawer-open-v3"),
        image_size=32,
        num_episodes=5,
        episode_length=40,
        eval_seed=7,
        training_flags=("--steps=3",),
    )


def test_recordings_with_and_without_actions(study):
    demos = study.recording("demos", "Record", episodes=4, seed=1)
    videos = study.recording("videos", "Record", episodes=4, seed=2, action_free=True)
    assert set(videos.command) - set(demos.command) >= {"--action-free", "ours/videos"}
    assert "--action-free" not in demos.command
    assert demos.output == study.data("demos") and demos.output in demos.product.parents


def test_training_flags_have_the_last_word(study, config):
    job = study.training(
        "dit", "Train", config=config, data="demos", needs=["collect_demos"], flags=["--steps=99", "--seed=1"]
    )
    assert job.command[-1] == "--steps=3"
    assert f"--config_path={config}" in job.command and f"--output_dir={job.output}" in job.command
    assert study.checkpoint("dit") == job.product.parent
    assert job.needs == ("collect_demos",)


def test_mixture_stands_in_for_the_dataset(study, config):
    """The configuration may name a folder, which would be preferred; and a changed mixture is another training."""
    demos, mixed = (
        study.training("x", "Train", config=config, data=data, needs=()) for data in ("demos", "mixed.yaml")
    )
    assert f"--dataset.root={study.data('demos')}" in demos.command
    assert {f"--dataset.repo_id={study.data('mixed.yaml')}", "--dataset.root=null"} <= set(mixed.command)
    assert demos.inputs == (config,)
    assert mixed.inputs == (config, study.data("mixed.yaml"))


def test_policies_meet_the_same_episodes_and_images_are_rendered_when_looked_at(study, config):
    dit, zero = study.evaluation("dit", "Evaluate", config=config), study.zero_evaluation()
    assert "--env.render_interval=8" in dit.command
    assert "--env.render_interval=40" in zero.command, "nobody looks at the images"
    same = {"--seed=7", "--eval.n_episodes=5", "--env.episode_length=40", "--env.image_size=32"}
    assert same <= set(dit.command) and same <= set(zero.command)
    assert dit.needs == ("train_dit",) and zero.needs == ()
    assert f"--policy.path={study.checkpoint('dit')}" in dit.command


def test_mixture_file_is_read_back(tmp_path):
    content = {"frame_gap_s": 0.2, "entries": [{"name": "b", "root": "b"}, {"name": "a", "root": "a"}]}
    path = write_mixture_file(content, tmp_path / "data" / "mixture.yaml")
    assert list(yaml.safe_load(path.read_text())) == ["frame_gap_s", "entries"]
    assert yaml.safe_load(path.read_text()) == content


def test_outcomes_keep_the_order_of_evaluation(tmp_path):
    tasks = [("b", [True, False]), ("a", [False, 1])]
    per_task = [{"task_group": name, "metrics": {"successes": successes}} for name, successes in tasks]
    path = tmp_path / "eval_info.json"
    path.write_text(json.dumps({"per_task": per_task}))
    assert list(read_outcomes(path).items()) == [("b", [True, False]), ("a", [False, True])]
