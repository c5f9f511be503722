"""The label-efficiency study: its cells are fair, and its statistics are right."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from lerobot.datasets import LeRobotDatasetMetadata
from lerobot.policies.factory import make_pre_post_processors
from support.policies import make_policy

from lerobot_lara.data.mixture.config import load_mixture

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks" / "label_efficiency"))
import arms
import collect
import held_out_error
import study
import summary

FOLDER = Path(study.__file__).parent


@pytest.fixture
def jobs(tmp_path):
    registered = study.Study(tmp_path, tasks=arms.TASKS, scenes=50, videos=50)
    registered.write_mixtures(arms.LABELS)
    return {job.name: job for job in registered.jobs(arms.ARMS, arms.LABELS, None)}


def flag(job, name):
    return next((part.split("=", 1)[1] for part in job.command if part.startswith(f"--{name}=")), None)


def test_the_registered_cells(jobs):
    cells = [name for name in jobs if name.startswith("eval_") and name != "eval_zero"]
    assert len(cells) == 3 * (9 * 3 + 2 * 2)
    assert {"eval_dit_5_4", "eval_lara_5_4"} <= set(cells) and "eval_lara_joint_5_3" not in cells
    readme = (FOLDER / "README.md").read_text()
    assert all(
        f"`{name}`" in readme for name in (*arms.ARMS, *arms.FOLLOW_UP, *arms.TASKS, *arms.VALIDATION_TASKS)
    )
    assert not set(arms.TASKS) & set(arms.VALIDATION_TASKS)


def test_every_job_comes_after_what_it_needs(jobs):
    names = list(jobs)
    for name, job in jobs.items():
        assert all(names.index(needed) < names.index(name) for needed in job.needs), name
        for part in job.command:  # what it reads of the study is made by something that it needs
            read = part.split("=", 1)[-1]
            if "/checkpoints/last/" in read and not part.startswith("--output"):
                assert f"train_{Path(read).parents[2].name}" in job.needs, (name, part)


def test_arms_differ_in_what_they_are_named_for(jobs):
    dit, lara = jobs["train_dit_5_1"], jobs["train_lara_5_1"]
    assert flag(dit, "dataset.repo_id") == flag(lara, "dataset.repo_id")
    assert flag(lara, "policy.lam_path") == flag(jobs["train_lara_joint_5_1"], "policy.lam_path")
    own = set(jobs["train_lara_joint_5_1"].command) ^ set(lara.command)
    assert own - {"--policy.alignment_target=joint"} == {
        part for part in own if part.startswith("--output_dir")
    }
    labeled = jobs["train_lam_labels_5_1"]
    assert flag(labeled, "dataset.repo_id") == flag(dit, "dataset.repo_id")
    assert "train_lam_labels_5_1" in jobs["train_lara_labeled_5_1"].needs
    assert flag(jobs["train_lara_mixture_5_1"], "dataset.repo_id").endswith("mixed_5.yaml")
    assert {flag(job, "seed") for name, job in jobs.items() if name.startswith("eval_")} == {"1000"}
    assert flag(jobs["train_dit_5_2"], "seed") == "2"


def test_arms_train_as_long_as_is_said(tmp_path):
    whole = study.Study(tmp_path, tasks=arms.TASKS, scenes=50, videos=50)
    jobs = {job.name: job for job in whole.jobs(arms.ARMS | arms.FOLLOW_UP, [5], [0])}
    steps = {name: flag(jobs[f"train_{name}_5_0"], "steps") for name in arms.ARMS | arms.FOLLOW_UP}
    expected = {"dit_longer": "1260", "dit_3x": "2100", "lara_3x": "2100", "lara_mixture_3x": "2100"}
    assert {name: number for name, number in steps.items() if number} == expected | {"dit_3x_longer": "4620"}
    for name in ("dit", "lara", "lara_mixture"):
        own = set(jobs[f"train_{name}_5_0"].command) ^ set(jobs[f"train_{name}_3x_5_0"].command)
        assert {part.split("=")[0] for part in own} == {"--steps", "--output_dir"}
    config = steps_of(study.CONFIGS / "dit.yaml"), steps_of(study.CONFIGS / "lara.yaml")
    assert config == (700, 700)


def steps_of(path):
    return yaml.safe_load(path.read_text())["steps"]


def test_remedies_end_with_the_error_on_held_out_demonstrations(tmp_path):
    tasks = arms.VALIDATION_TASKS
    validation = study.Study(tmp_path, tasks=tasks, scenes=50, videos=50, held_out=True)
    validation.write_mixtures(arms.LABELS)
    jobs = {job.name: job for job in validation.jobs(["lara", *arms.REMEDIES], [5], [0])}
    assert not [name for name in jobs if name.startswith("eval_")]
    for name, arm in arms.REMEDIES.items():
        job, training = jobs[f"held_out_{name}_5_0"], jobs[f"train_{name}_5_0"]
        assert job.needs == (f"train_{name}_5_0",)
        assert int(flag(job, "first_episode")) == 5 * len(tasks), "the first that no policy was trained on"
        lam = jobs[f"train_{Path(flag(training, 'policy.lam_path')).parents[2].name}"]
        assert flag(training, "policy.frame_gap") == flag(lam, "policy.frame_gap"), name
        for part in (training, lam):
            mixture = load_mixture(flag(part, "dataset.repo_id"))
            assert mixture.frame_gap_s == arm.frame_gap / arms.FPS
    own = {
        part
        for part in set(jobs["train_lara_5_0"].command) ^ set(jobs["train_lara_layer_1_5_0"].command)
        if not part.startswith("--output_dir")
    }
    assert own == {"--policy.alignment_layer=1"}


def test_held_out_errors_are_collected_by_cell(tmp_path):
    folder = tmp_path / "held_out" / "lara_layer_1_5_2"
    folder.mkdir(parents=True)
    (folder / "held_out.json").write_text(json.dumps({"15": 0.25}))
    (row,) = collect.collect_held_out_errors(tmp_path)
    assert row == {"arm": "lara_layer_1", "labels": "5", "seed": "2", "episode": "15", "error": "0.25000"}


def test_label_budgets(tmp_path, jobs):
    for number in arms.LABELS:
        labels = load_mixture(tmp_path / "data" / f"labels_{number}.yaml")
        assert len(labels.entries[0].episodes) == number * len(arms.TASKS)
        mixed = load_mixture(tmp_path / "data" / f"mixed_{number}.yaml")
        assert mixed.entries[0] == labels.entries[0]
        assert mixed.entries[1].action_free
    demos, videos = (flag_after(jobs[f"collect_{name}"], "--seed") for name in ("demos", "videos"))
    assert demos != videos


def flag_after(job, name):
    return job.command[job.command.index(name) + 1]


def outcomes(rates, seed=0, seeds=4, scenes=50):
    generator = np.random.default_rng(seed)
    return {
        s: {task: (generator.random(scenes) < rate).astype(int) for task, rate in rates.items()}
        for s in range(seeds)
    }


def test_paired_difference_covers_the_truth_and_knows_no_difference():
    low, high = outcomes({"a": 0.3, "b": 0.5}), outcomes({"a": 0.7, "b": 0.9}, seed=1)
    mean, lower, upper = summary.paired_difference(high, low, draws=500)
    assert lower < 0.4 < upper and 0.25 < lower < mean < upper < 0.55
    mean, lower, upper = summary.paired_difference(low, low, draws=500)
    assert (mean, lower, upper) == (0, 0, 0)
    mean, lower, upper = summary.paired_difference(
        outcomes({"a": 0.5}, seed=3), outcomes({"a": 0.5}, seed=4), draws=500
    )
    assert lower < 0 < upper


def test_scenes_that_all_seeds_share_stay_uncertain():
    """Many seeds on few scenes: what is measured is these scenes, and the interval has to say so."""
    scenes = (np.arange(20) % 2 == 0).astype(int)
    widths = []
    for seeds in (2, 30):
        won, lost = ({s: {"a": outcome} for s in range(seeds)} for outcome in (scenes, 1 - scenes))
        _, lower, upper = summary.paired_difference(won, lost, draws=500)
        widths.append(upper - lower)
    assert widths[1] > 0.7 * widths[0] > 0.3


def test_interval_by_seed_is_students():
    first = {
        seed: {"a": np.array(list(outcomes), dtype=int)}
        for seed, outcomes in enumerate(["1100", "1000", "1110"])
    }
    second = {seed: {"a": np.zeros(4, dtype=int)} for seed in range(3)}
    low, high = summary.interval_by_seed(first, second)
    assert (low + high) / 2 == pytest.approx(0.5)
    assert high - low == pytest.approx(2 * 4.3027 * 0.25 / 3**0.5, rel=1e-4)


def test_success_rate_spreads_with_the_seeds():
    ones, zeros = np.ones(50, dtype=int), np.zeros(50, dtype=int)
    assert summary.success_rate({0: {"a": ones}, 1: {"a": zeros}}, draws=500) == (0.5, 0.0, 1.0)


def test_few_seeds_that_disagree_widen_the_interval():
    ones, zeros = np.ones(50, dtype=int), np.zeros(50, dtype=int)
    mixed, none = {0: {"a": ones}, 1: {"a": zeros}}, {0: {"a": zeros}, 1: {"a": zeros}}
    assert summary.paired_difference(mixed, none, draws=500) == (0.5, 0.0, 1.0)


def test_results_are_read_back_and_summarized(tmp_path):
    (tmp_path / "results.csv").write_text(
        "arm,labels,seed,task,outcomes\nzero,,,a,0000\ndit,5,0,a,0011\nlara_mixture,5,0,a,0111\n"
    )
    results = summary.read_results(tmp_path / "results.csv")
    table = summary.summarize(results, ["dit"])
    assert "| 5 | `lara_mixture` | 1 | 75% | 75.0% [30%, 95%] | +25.0 [" in table
    assert table.count("[+nan, +nan]") == 1, "one seed has no spread"
    assert "| - | `zero` | 1 | 0% |" in table


def test_the_figure_has_the_differences_of_the_table(tmp_path, monkeypatch):
    results = {
        (arm, 5): outcomes({"a": rate}, seed=seed)
        for seed, (arm, rate) in enumerate({"dit": 0.2, "lara": 0.7}.items())
    }
    drawn = []
    monkeypatch.setattr(summary.plt, "close", drawn.append)
    summary.draw(results, tmp_path / "summary.png", ["dit"])
    rates, differences = drawn[0].axes
    assert [bar.get_width() for bar in rates.patches] == [
        pytest.approx(summary.success_rate(results[arm, 5])[0]) for arm in ("lara", "dit")
    ]
    interval, point, zero = (list(line.get_xdata()) for line in differences.lines)
    mean, low, high = summary.paired_difference(results["lara", 5], results["dit", 5])
    assert interval == [100 * low, 100 * high] and point == [100 * mean] and zero == [0, 0]
    assert (tmp_path / "summary.png").exists()


def test_every_cell_has_its_rate():
    cells = {
        0: {"a": np.array([0, 1]), "b": np.array([1, 1])},
        2: {"a": np.array([0, 0]), "b": np.array([0, 1])},
    }
    rows = summary.rates_by_seed({("lara", 5): cells, ("dit", 5): {1: cells[0]}}).splitlines()
    assert rows[0] == "| labels | arm | seed 0 | seed 1 | seed 2 |"
    assert rows[2:] == ["| 5 | `dit` |  | 75.0 |  |", "| 5 | `lara` | 75.0 |  | 25.0 |"]


def run_summary(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["summary.py", *map(str, arguments)])
    summary.main()


def test_the_summary_lies_beside_the_results(tmp_path, monkeypatch, capsys):
    results = tmp_path / "second.csv"
    results.write_text("arm,labels,seed,task,outcomes\nzero,,,a,0000\n")
    with pytest.raises(SystemExit):
        run_summary(monkeypatch, results, "--against=zero")
    assert "no policy but the anchors" in capsys.readouterr().err
    results.write_text(results.read_text() + "slow,5,0,a,0011\nfast,5,0,a,0111\n")
    with pytest.raises(SystemExit):
        run_summary(monkeypatch, results)
    assert "['dit', 'lara']" in capsys.readouterr().err
    run_summary(monkeypatch, results, "--against=slow")
    assert "minus `slow`" in results.with_suffix(".md").read_text()
    assert {path.name for path in tmp_path.iterdir()} == {"second.csv", "second.md", "second.png"}


def test_every_arm_is_compared_with_those_listed_before_it():
    results = {
        (arm, 5): {seed: {"a": np.array([1] * solved + [0] * (4 - solved))} for seed in range(2)}
        for arm, solved in (("slow", 1), ("fast", 2), ("other", 4))
    }
    rows = summary.summarize(results, ["slow", "fast"]).splitlines()
    assert rows[0].endswith("| minus `slow` | by seed | minus `fast` | by seed |")
    fast, other, slow = ([cell.strip() for cell in row.split("|")[6:-1]] for row in rows[2:])
    assert [cell.split(" ")[0] for cell in other] == ["+75.0", "[+75.0,", "+50.0", "[+50.0,"]
    assert [cell.split(" ")[0] for cell in fast] == ["+25.0", "[+25.0,", "", ""]
    assert slow == [""] * 4
    results["unlike", 5] = {7: results["slow", 5][0]}
    assert summary.summarize(results, ["slow"]).splitlines()[-1].endswith(" |  |  |"), "no seed in common"


def test_outcomes_are_collected_by_cell(tmp_path):
    folder = tmp_path / "eval" / "lara_mixture_10_2"
    folder.mkdir(parents=True)
    info = {"per_task": [{"task_group": "a", "task_id": 0, "metrics": {"successes": [True, False]}}]}
    (folder / "eval_info.json").write_text(json.dumps(info))
    (row,) = collect.collect_results(tmp_path)
    assert row == {"arm": "lara_mixture", "labels": "10", "seed": "2", "task": "a", "outcomes": "10"}


def test_trainings_are_collected(tmp_path):
    folder = tmp_path / "jobs"
    folder.mkdir()
    line = "step:{} smpl:1 ep:1 epch:1 loss:3 {}:{}"
    for name, status, metric in (
        ("dit_3x_5_1", "done", "flow_loss"),
        ("lam_videos_0", "done", "psnr"),
        ("lara_5_0", "running", "flow_loss"),
    ):
        (folder / f"train_{name}.json").write_text(json.dumps({"status": status, "seconds": 12.3}))
        log = "\r".join(line.format(step, metric, value) for step, value in ((10, 0.4), (20, 0.3)))
        (folder / f"train_{name}.log").write_text(log)
    none = dict.fromkeys(collect.TRAINING_METRICS, "")
    policy, lam = collect.collect_training(tmp_path)
    assert policy == {"training": "dit_3x_5_1", "seconds": "12"} | none | {"flow_loss": "0.3"}
    assert lam == {"training": "lam_videos_0", "seconds": "12"} | none


def test_the_expert_is_an_anchor_by_its_attempts(tmp_path):
    folder = tmp_path / "data" / "demos" / "meta"
    folder.mkdir(parents=True)
    episodes = [
        {"task": "a", "failed_attempts": 0},
        {"task": "b", "failed_attempts": 2},
        {"task": "a", "failed_attempts": 1},
    ]
    (folder / "collection.json").write_text(json.dumps({"episodes": episodes}))
    rows = collect.collect_results(tmp_path)
    assert {row["task"]: row["outcomes"] for row in rows} == {"a": "101", "b": "001"}
    (tmp_path / "results.csv").write_text(
        "\n".join(["arm,labels,seed,task,outcomes", *(",".join(row.values()) for row in rows)])
    )
    assert "| - | `expert` | 1 | 67% | 33% | 50.0% [" in summary.summarize(
        summary.read_results(tmp_path / "results.csv")
    )


def save_policy(folder, meta, **options):
    policy = make_policy(**options)
    for part in (policy, *make_pre_post_processors(policy.config, dataset_stats=meta.stats)):
        part.save_pretrained(folder)


def test_held_out_error_is_that_of_the_executed_actions(tmp_path, tiny_dataset, monkeypatch):
    root = tiny_dataset(num_episodes=3, num_frames=[8, 9, 10], state_dim=3)
    meta = LeRobotDatasetMetadata(root.name, root=root)
    save_policy(tmp_path / "policy", meta)

    def predict(self, batch, noise):
        assert noise.shape == (len(batch["action"]), 8, 4)
        padded = batch["action_is_pad"]
        wrong = batch["action"] + 2 + 100 * padded[..., None]
        return torch.cat([wrong, torch.full_like(wrong, 50)], dim=1)  # later steps are not executed

    monkeypatch.setattr(held_out_error.LaraDiTPolicy, "predict_action_chunk", predict)
    errors = held_out_error.errors_by_episode(tmp_path / "policy", root, 1)
    assert errors == {1: pytest.approx(4.0, rel=1e-5), 2: pytest.approx(4.0, rel=1e-5)}


def test_held_out_error_averages_over_samples(tmp_path, tiny_dataset, monkeypatch):
    """The actions of an untrained policy are the noise, of whose variance of 1 four samples leave a quarter."""
    root = tiny_dataset(num_episodes=2, num_frames=60, state_dim=3)
    save_policy(tmp_path / "policy", LeRobotDatasetMetadata(root.name, root=root), fresh=True)
    errors = []
    for number in (4, 4, 1):
        monkeypatch.setattr(held_out_error, "NUM_SAMPLES", number)
        errors += held_out_error.errors_by_episode(tmp_path / "policy", root, 1).values()
    assert errors[0] == errors[1], "the same noise for every policy"
    assert errors[2] - errors[0] == pytest.approx(0.75, abs=0.2)
