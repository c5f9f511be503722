import json

import pytest
import yaml
from filelock import FileLock

from lerobot_lara import MetaworldFastEnvConfig
from lerobot_lara.cli import main
from lerobot_lara.data.mixture.config import load_mixture
from lerobot_lara.evaluation import demo, report
from lerobot_lara.evaluation.demo import (
    CONFIG_DIR,
    QUICK_SETTINGS,
    DemoSettings,
    build_jobs,
    run_demo,
)
from lerobot_lara.evaluation.demo_results import read_successes
from lerobot_lara.evaluation.study.jobs import JobError, JobTime
from lerobot_lara.evaluation.study.metaworld_jobs import checkpoint


@pytest.fixture
def stubbed(monkeypatch, study, results):
    """Replaces the commands by their results; counts how often they would have run."""
    finished = results(dit=(4, 5), lara=(6, 7))
    calls = []

    def run_jobs(jobs, *, state_dir):
        calls.append([job.name for job in jobs])
        if not state_dir.exists():
            output_dir = study(finished)
            assert output_dir == state_dir.parent
            for name in ("lara_lam", "lara_dit", "lara", "lara_labels", "lara_mixture"):
                directory = checkpoint(output_dir, name)
                directory.mkdir(parents=True)
                config = {
                    "steps": 5,
                    "batch_size": 2,
                    "seed": 1000,
                    "policy": {"type": name, "optimizer_lr": 1e-4},
                }
                (directory / "train_config.json").write_text(json.dumps(config))
        return {job.name: JobTime(0.0, 3.0) for job in jobs}

    monkeypatch.setattr(demo, "run_jobs", run_jobs)
    return calls


def test_demo_writes_results_and_report(tmp_path, stubbed, results):
    page = run_demo(tmp_path / "demo")
    assert page.is_file()
    found = json.loads((tmp_path / "demo" / "results.json").read_text())
    assert found["arms"]["lara"] == {
        "door-close-v3": {"successes": 6, "episodes": 20},
        "drawer-open-v3": {"successes": 7, "episodes": 20},
    }
    assert list(found["arms"]) == ["zero", "lara_dit", "lara", "lara_labels", "lara_mixture"]
    assert found["seeds"] == {"demo": 0, "video": 1, "eval": 1000, "training": 1000}
    assert found["settings"]["num_demos"] == DemoSettings().num_demos
    assert found["wall_times"]["total"] == 3.0
    # Read back from the probe's own format.
    quality = results(dit=(4, 5), lara=(6, 7))["latent_action_model"]
    assert found["latent_action_model"].pop("gap_seconds") == pytest.approx(quality.pop("gap_seconds"))
    assert found["latent_action_model"] == quality
    assert found["versions"]["lerobot"].startswith("0.")
    assert found["commands"].keys() == {job.name for job in build_jobs(DemoSettings(), tmp_path / "demo")}
    assert any(path.suffix == ".png" for path in (tmp_path / "demo" / "figures").iterdir())


@pytest.fixture
def undrawn(monkeypatch):
    """Leaves the figures out of the page, which takes most of the time."""
    monkeypatch.setattr(report, "draw_figures", lambda results, output_dir: {})


def test_finished_run_is_neither_repeated_nor_overwritten_unasked(tmp_path, stubbed, undrawn):
    run_demo(tmp_path / "demo")
    with pytest.raises(ValueError, match=r"finished run.*--resume.*--overwrite"):
        run_demo(tmp_path / "demo")
    assert len(stubbed) == 1
    (tmp_path / "demo" / "report.html").unlink()
    assert run_demo(tmp_path / "demo", resume=True).is_file()
    (tmp_path / "demo" / "of_old").touch()
    run_demo(tmp_path / "demo", overwrite=True)
    assert not (tmp_path / "demo" / "of_old").exists()


def test_interrupted_run_resumes_unasked(tmp_path, stubbed, undrawn):
    run_demo(tmp_path / "demo")
    (tmp_path / "demo" / "results.json").unlink()
    assert run_demo(tmp_path / "demo").is_file()


def test_a_deletion_that_was_interrupted_is_finished(tmp_path, stubbed, undrawn):
    folder = tmp_path / "demo"
    run_demo(folder)
    (folder / "half_of_old").mkdir()
    (folder / demo.MARKER).write_text("being deleted")
    run_demo(folder)
    assert not (folder / "half_of_old").exists() and (folder / demo.MARKER).read_text() == ""


def test_two_runs_do_not_share_a_folder(tmp_path):
    with FileLock(tmp_path / "demo.lock"), pytest.raises(ValueError, match=r"`output_dir` is .* another run"):
        run_demo(tmp_path / "demo")


@pytest.mark.parametrize("name", ["lam", "dit", "lara", "lara_mixture"])
def test_little_of_a_training_is_lost(name):
    config = yaml.safe_load((CONFIG_DIR / f"{name}.yaml").read_text())
    assert config["save_freq"] <= config["steps"] / 5
    job = next(job for job in build_jobs(DemoSettings(), CONFIG_DIR) if f"{name}.yaml" in job.command[1])
    assert job.resume is not None


@pytest.mark.parametrize("overwrite", [False, True])
def test_directory_of_something_else_is_left_alone(tmp_path, stubbed, overwrite):
    (tmp_path / "thesis.tex").touch()
    (tmp_path / "jobs").mkdir()
    with pytest.raises(ValueError, match="something other than a demo run"):
        run_demo(tmp_path, overwrite=overwrite)
    assert (tmp_path / "thesis.tex").exists()


def test_missing_configurations_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"lam\.yaml is missing: .*--config-dir"):
        run_demo(tmp_path / "demo", config_dir=tmp_path)


def test_command_line_shows_a_failed_step_without_a_traceback(tmp_path, monkeypatch, capsys):
    def fail(*args, **kwargs):
        raise JobError("Train LARA failed: exit status 1.\nCommand: lerobot-train")

    monkeypatch.setattr(demo, "run_jobs", fail)
    assert main(["demo", "--quick", "--output-dir", str(tmp_path / "demo")]) == 1
    assert "Command: lerobot-train" in capsys.readouterr().err


@pytest.mark.parametrize("settings", [DemoSettings(), QUICK_SETTINGS])
def test_jobs_form_a_fair_study(tmp_path, settings):
    jobs = {job.name: job for job in build_jobs(settings, tmp_path)}
    names = list(jobs)
    for name, job in jobs.items():
        assert all(names.index(needed) < names.index(name) for needed in job.needs)
        assert job.output == job.product or job.output in job.product.parents

    # Both arms train on the same data with the same flags; only LARA is given a latent action model.
    dit, lara = jobs["train_lara_dit"].command, jobs["train_lara"].command
    own = ("--config_path", "--output_dir", "--policy.lam_path")
    assert [flag for flag in dit if not flag.startswith(own)] == [
        flag for flag in lara if not flag.startswith(own)
    ]
    assert any(flag.startswith("--policy.lam_path=") for flag in lara)
    assert f"--dataset.root={tmp_path / 'data' / 'videos'}" in jobs["train_lara_lam"].command
    assert "--action-free" in jobs["collect_videos"].command
    assert "--action-free" not in jobs["collect_demos"].command
    # The latent action model is measured on what it was not trained on.
    assert f"--dataset={tmp_path / 'data' / 'demos'}" in jobs["probe_lara_lam"].command
    assert str(checkpoint(tmp_path, "lara_lam")) in jobs["probe_lara_lam"].command

    # On labels, the latent actions are computed before, of frames that are shifted as the policy shifts them.
    labeled = jobs["train_lara_labels"]
    shift = yaml.safe_load((CONFIG_DIR / "lara.yaml").read_text())["policy"]["random_shift"]
    assert f"--random-shift={shift}" in jobs["label_demos"].command
    assert f"--policy.lam_labels={jobs['label_demos'].output}" in labeled.command
    labels_own = (*own, "--policy.lam_labels")
    assert [flag for flag in labeled.command if not flag.startswith(labels_own)] == [
        flag for flag in lara if not flag.startswith(labels_own)
    ]

    # The mixture adds the videos, and nothing else that the arms could differ in.
    mixture = jobs["train_lara_mixture"]
    assert f"--dataset.repo_id={tmp_path / 'data' / 'mixture.yaml'}" in mixture.command
    own += ("--dataset",)
    assert [flag for flag in mixture.command if not flag.startswith(own)] == [
        flag for flag in lara if not flag.startswith(own)
    ]
    assert {"collect_videos", "collect_demos", "train_lara_lam"} == set(mixture.needs)

    # All policies meet the same episodes.
    def evaluated(name):
        return {flag for flag in jobs[name].command if flag.startswith(("--env", "--eval", "--seed"))}

    assert evaluated("eval_lara") == evaluated("eval_lara_dit") == evaluated("eval_lara_mixture")
    differing = evaluated("eval_lara") ^ evaluated("eval_zero")
    assert all(flag.startswith("--env.render_interval=") for flag in differing)


def test_images_are_rendered_when_the_policy_looks(tmp_path):
    chunk = yaml.safe_load((CONFIG_DIR / "lara.yaml").read_text())["policy"]["n_action_steps"]
    job = next(job for job in build_jobs(DemoSettings(), tmp_path) if job.name == "eval_lara")
    assert f"--env.render_interval={chunk}" in job.command


def test_settings_keep_demonstrations_and_videos_apart():
    settings = DemoSettings()
    assert settings.demo_seed != settings.video_seed
    assert len(settings.tasks) >= 3
    assert settings.num_episodes >= 20


@pytest.mark.parametrize(
    ("name", "policy"), [("lam", "lara_lam"), ("dit", "lara_dit"), ("lara", "lara"), ("lara_mixture", "lara")]
)
def test_lerobot_reads_the_configurations(name, policy):
    from lerobot.configs.train import TrainPipelineConfig

    import lerobot_lara  # noqa: F401

    config = TrainPipelineConfig.from_pretrained(CONFIG_DIR / f"{name}.yaml", cli_args=["--steps=7"])
    assert config.policy.type == policy
    assert config.steps == 7
    assert not config.policy.push_to_hub
    assert config.policy.device == "cpu"


def test_configurations_of_the_two_arms_differ_in_the_alignment_only():
    dit, lara = (yaml.safe_load((CONFIG_DIR / f"{name}.yaml").read_text()) for name in ("dit", "lara"))
    assert {name for name in dit if dit[name] != lara[name]} == {"policy", "output_dir"}
    shared = {name: value for name, value in lara["policy"].items() if name in dit["policy"]}
    assert {**shared, "type": "lara_dit"} == dit["policy"]


def test_the_mixture_adds_videos_to_equally_many_labeled_samples(tmp_path):
    lara, mixed = (
        yaml.safe_load((CONFIG_DIR / f"{name}.yaml").read_text()) for name in ("lara", "lara_mixture")
    )
    assert lara["policy"] == mixed["policy"]
    assert {key for key in lara if lara[key] != mixed[key]} == {"dataset", "output_dir", "batch_size"}
    config = load_mixture(demo.write_mixture(CONFIG_DIR / "mixture.yaml", tmp_path))
    demos, videos = config.entries
    assert (demos.root, videos.root) == (str(tmp_path / "data" / "demos"), str(tmp_path / "data" / "videos"))
    assert videos.action_free and not demos.action_free
    labeled = mixed["batch_size"] * demos.weight / (demos.weight + videos.weight)
    assert labeled == lara["batch_size"]
    assert config.frame_gap_s * MetaworldFastEnvConfig().fps == lara["policy"]["frame_gap"]


def test_latent_action_model_and_policy_agree_on_the_frame_gap():
    lam, lara = (
        yaml.safe_load((CONFIG_DIR / f"{name}.yaml").read_text())["policy"] for name in ("lam", "lara")
    )
    assert lam["frame_gap"] == lara["frame_gap"]


def test_successes_are_counted_per_task(tmp_path):
    metrics = [{"successes": [True, False, True]}, {"successes": [False, False, False]}]
    per_task = [{"task_group": name, "task_id": 0, "metrics": entry} for name, entry in zip("ba", metrics)]
    (tmp_path / "eval_info.json").write_text(json.dumps({"per_task": per_task}))
    assert read_successes(tmp_path / "eval_info.json") == {
        "b": {"successes": 2, "episodes": 3},
        "a": {"successes": 0, "episodes": 3},
    }
