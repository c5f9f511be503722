"""The refinement study: its cells are fair, its controls are what they are called, and its statistics are right."""

import importlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from lerobot.datasets import LeRobotDataset
from support.helpers import run_train
from support.policies import TINY_LAM
from support.tiny_datasets import make_tiny_dataset

from lerobot_lara import cli
from lerobot_lara.backbones.images import resize
from lerobot_lara.data.latent_labels.labels import LatentLabels
from lerobot_lara.labeling.codebook import quantize
from lerobot_lara.lam.latent_action_model import LatentActionModel

FOLDER = Path(__file__).parents[2] / "benchmarks" / "refinement"
NAMES = ("arms", "study", "summary", "derive_labels", "train_placebo", "measure")


def load():
    """The study's modules, some of which are called as those of another study."""
    others = {name: sys.modules.pop(name, None) for name in NAMES}
    sys.path.insert(0, str(FOLDER))
    try:
        return [importlib.import_module(name) for name in NAMES]
    finally:
        sys.path.remove(str(FOLDER))
        for name, module in others.items():
            sys.modules.pop(name, None)
            if module is not None:
                sys.modules[name] = module


arms, study, summary, derive_labels, train_placebo, measure = load()


@pytest.fixture
def jobs(tmp_path):
    return {job.name: job for job in study.Study(tmp_path).jobs(arms.SEEDS)}


def flags(job):
    return {part.split("=", 1)[0]: part.split("=", 1)[1] for part in job.command if "=" in part}


def test_the_registered_cells(jobs):
    evaluated = [name for name in jobs if name.startswith("eval_policy")]
    assert len([name for name in evaluated if "with_latents" not in name]) == 5 * 7
    assert len([name for name in evaluated if "with_latents" in name]) == 5 * 5
    assert len([name for name in jobs if name.startswith("measure_")]) == 5 * 6
    seen = set()
    for name, job in jobs.items():
        assert seen.issuperset(job.needs), name
        seen.add(name)


def test_tokenizers_differ_in_the_alignment_alone(jobs):
    control = flags(jobs["train_control_3"])
    for name in ("joint", "joint_relative", "placebo"):
        other = flags(jobs[f"train_{name}_3"])
        differing = {key for key in control.keys() | other.keys() if control.get(key) != other.get(key)}
        relative = {"--policy.alignment_loss", "--policy.alignment_relative"} if "relative" in name else set()
        assert differing == {"--output_dir", "--policy.alignment_target"} | relative, name
        assert ("train_placebo.py" in str(jobs[f"train_{name}_3"].command)) == (name == "placebo")
    assert control["--steps"] == "400" and control["--seed"] == "3"
    assert control["--dataset.episodes"] == str(list(range(30)))


def test_consumers_differ_in_their_codes_alone(jobs):
    first = flags(jobs["train_policy_vanilla_2"])
    for name in arms.CONSUMERS[1:-1]:
        other = flags(jobs[f"train_policy_{name}_2"])
        differing = {key for key in first.keys() | other.keys() if first.get(key) != other.get(key)}
        assert differing == {"--output_dir", "--policy.path", "--policy.lam_labels"}, name
        assert f"/{name}_demos_2" in other["--policy.lam_labels"]
        assert f"/video_{name}_2/" in other["--policy.path"]
        assert f"/{name}_videos_2" in flags(jobs[f"train_video_{name}_2"])["--policy.lam_labels"]
    none = flags(jobs["train_policy_none_2"])
    assert none["--policy.predict_latents"] == "false" and none["--steps"] == first["--steps"]
    assert "--policy.path" not in none


def test_codes_of_demonstrations_are_those_of_the_videos(jobs):
    for ids in arms.IDS:
        demos = jobs[f"label_{ids}_demos_1"]
        assert flags(demos)["--codebook"].endswith(f"labels/{ids}_videos_1")
        assert f"label_{ids}_videos_1" in demos.needs
        held_out = flags(jobs[f"measure_{ids}_1"])
        assert held_out["--first_episode"] == "30"
        assert (
            held_out["--placebo_labels"] == f"{held_out['--labels'].replace(f'/{ids}_', f'/{ids}_shuffled_')}"
        )


def test_no_sample_of_the_placebo_keeps_its_actions():
    action = torch.arange(6.0)[:, None, None].expand(6, 2, 3)
    batch = {"action": action, "action_is_pad": action[..., 0] > 2, "observation.image": torch.arange(6)}
    for _ in range(20):
        moved = train_placebo.permute_actions(batch)
        assert (moved["action"][:, 0, 0] != torch.arange(6)).all()
        assert sorted(moved["action"][:, 0, 0].tolist()) == list(range(6))
        assert (moved["action_is_pad"] == (moved["action"][..., 0] > 2)).all()
        assert (moved["observation.image"] == torch.arange(6)).all()


@pytest.fixture(scope="module")
def labels(tmp_path_factory):
    folder = tmp_path_factory.mktemp("refinement")
    data = make_tiny_dataset(folder / "demos", num_episodes=4, num_frames=14)
    torch.manual_seed(0)
    LatentActionModel.from_config(**TINY_LAM).save_pretrained(folder / "lam")
    command = ["label", str(folder / "lam"), str(data), f"--out={folder / 'labels'}", "--device=cpu"]
    assert cli.main([*command, "--no-motion", "--codebook-size=3"]) == 0
    return folder / "labels"


def codes_of(folder):
    found = LatentLabels(folder)
    return found.column("code_indices")[:, 0], found.valid


def test_shuffled_codes_are_those_of_other_frames(labels, tmp_path):
    derive_labels.derive_labels(labels, tmp_path / "new", codes="shuffled", seed=1)
    before, valid = codes_of(labels)
    after, still_valid = codes_of(tmp_path / "new")
    assert (valid == still_valid).all() and (after[~valid] == -1).all()
    assert (after != before).any()
    assert sorted(map(tuple, after[valid].tolist())) == sorted(map(tuple, before[valid].tolist()))
    assert LatentLabels(tmp_path / "new").manifest.tokenizer == LatentLabels(labels).manifest.tokenizer
    with pytest.raises(FileExistsError):
        derive_labels.derive_labels(labels, tmp_path / "new", codes="shuffled")


@pytest.fixture(scope="module")
def pretrained(labels):
    """A policy that was trained on codes for a step."""
    return run_train(
        dataset__root=labels.parent / "demos",
        output_dir=labels.parent / "policy",
        steps=1,
        policy__type="moto_gpt",
        policy__image_size=32,
        policy__vision_encoder_width=16,
        policy__width=16,
        policy__num_layers=1,
        policy__num_heads=2,
        policy__frame_gap=4,
        policy__latent_steps=2,
        policy__predict_actions=False,
        policy__lam_labels=labels,
    ).checkpoint


def held_out(labels):
    """The last two episodes' frames o_t and o_{t+4} with their codes (N, 2, L), -1 where a pair ends outside."""
    dataset = LeRobotDataset("tiny", root=labels.parent / "demos")
    codes = codes_of(labels)[0].astype(np.int64)
    indices = [start + frame for start in (28, 42) for frame in range(0, 10, measure.EVERY)]
    both = np.stack(
        [
            np.stack([codes[index], codes[index + 4] if index % 14 + 4 < 14 else np.full(codes.shape[1], -1)])
            for index in indices
        ]
    )
    return (
        [dataset[index] for index in indices],
        [dataset[index + 4] for index in indices],
        torch.tensor(both),
    )


def test_likelihood_of_held_out_codes(labels, pretrained):
    policy, preprocessor = measure.read(pretrained)
    samples, _, codes = held_out(labels)
    logits = []
    for sample, ids in zip(samples, codes.clamp(min=0), strict=True):
        conditions = policy._conditions(preprocessor(dict(sample)))
        logits.append(policy.model(conditions, ids[None])[0][0])
    nats = torch.nn.functional.cross_entropy(
        torch.stack(logits).flatten(0, 2), codes.flatten(), ignore_index=-1, reduction="none"
    ).reshape(codes.shape)
    valid = codes >= 0
    found = measure.code_losses(pretrained, labels, labels.parent / "demos", 2)
    assert found["loss_1"] == pytest.approx(nats[:, 0].mean().item(), rel=1e-4)
    assert found["loss"] == pytest.approx(nats[valid].mean().item(), rel=1e-4)
    hits = torch.stack(logits).argmax(-1) == codes
    assert found["accuracy_1"] == pytest.approx(hits[:, 0].float().mean().item(), rel=1e-4)
    assert not valid.all() and found["loss"] != pytest.approx(found["loss_1"], rel=1e-4)


def test_pictures_of_predicted_codes(labels, pretrained, tmp_path):
    data, lam_path = labels.parent / "demos", labels.parent / "lam"
    found = measure.pictures(pretrained, labels, lam_path, data, 2, tmp_path / "predicted.png")
    assert (tmp_path / "predicted.png").stat().st_size > 1000
    policy, preprocessor = measure.read(pretrained)
    lam, codebook = (
        LatentActionModel.from_pretrained(lam_path).eval(),
        torch.tensor(LatentLabels(labels).codebook),
    )
    samples, later, codes = held_out(labels)
    predicted = [policy.predict_latents(preprocessor(dict(sample)))[0, 0] for sample in samples]
    for name, ids in (("predicted", predicted), ("true", codes[:, 0])):
        latents = torch.stack(
            [torch.stack([book[code] for book, code in zip(codebook, each)]) for each in ids]
        )
        with torch.no_grad():
            images = lam.decode(torch.stack([sample["observation.image"] for sample in samples]), latents)
        error = images.clamp(0, 1) - resize(
            torch.stack([each["observation.image"] for each in later]), len(images[0, 0])
        )
        assert found[name] == pytest.approx(-10 * error.square().mean().log10().item(), rel=1e-4)
    change = [a["observation.image"] - b["observation.image"] for a, b in zip(samples, later, strict=True)]
    small = resize(torch.stack(change), len(images[0, 0]))
    assert found["copy"] == pytest.approx(-10 * small.square().mean().log10().item(), rel=1e-4)


def test_codes_of_no_motion(labels, tmp_path):
    derive_labels.derive_labels(labels, tmp_path / "first", codes="no_motion")
    derive_labels.derive_labels(labels, tmp_path / "second", codes="no_motion", codebook=tmp_path / "first")
    source, derived = LatentLabels(labels), LatentLabels(tmp_path / "first")
    latents = (
        source.column("latent_no_motion").astype(np.float32).reshape(len(source), -1, TINY_LAM["latent_dim"])
    )
    codes, valid = codes_of(tmp_path / "first")
    assert (codes[valid] == quantize(latents, derived.codebook)[valid]).all()
    assert (codes[~valid] == -1).all() and (codes_of(tmp_path / "second")[0] == codes).all()
    assert derived.manifest.tokenizer != source.manifest.tokenizer


def write_seed(folder, seed, rates, loss):
    """Results of a seed, in which every policy solves a share of 4 scenes."""
    for name in arms.CONSUMERS:
        for suffix in ("", "_with_latents"):
            path = folder / "eval" / f"policy_{name}_{seed}{suffix}"
            path.mkdir(parents=True)
            successes = [scene < rates.get(name, 0) for scene in range(4)]
            task = {"task_group": "task", "metrics": {"successes": successes}}
            (path / "eval_info.json").write_text(json.dumps({"per_task": [task]}))
    for ids in arms.IDS:
        path = folder / "measured" / f"{ids}_{seed}"
        path.mkdir(parents=True)
        own = {"loss_1": loss, "loss": loss, "accuracy_1": 0.5, "accuracy": 0.5}
        content = {"own": own, "placebo": own | {"loss_1": 2.0}}
        if ids != arms.NO_MOTION:
            content["psnr"] = {"predicted": 24.0, "true": 25.0, "other": 21.0, "copy": 22.0}
        (path / "measured.json").write_text(json.dumps(content))
    value = {"value": 0.5}
    model = {
        "latents": {"effective_rank": 4.0},
        "action": {"together": value, "baseline": {"value": 0.4}},
        "transfer": {"cosine": value, "shuffled_cosine": {"value": 0.1}},
    }
    path = folder / "probe" / str(seed)
    path.mkdir(parents=True)
    (path / "metrics.json").write_text(json.dumps({"models": [model] * len(summary.LAMS)}))


def test_summary(tmp_path):
    write_seed(tmp_path, 0, {"joint": 3, "control": 1}, 1.5)
    write_seed(tmp_path, 1, {"joint": 2, "control": 2}, 1.0)
    (tmp_path / "probe" / "2").mkdir()  # not finished
    assert summary.finished_seeds(tmp_path) == [0, 1]
    outcomes, measures = summary.collect(tmp_path, [0, 1])
    text = summary.summarize(outcomes, measures)
    # Differences of 50 and 0 points: the mean is 25, and half the interval 12.706 * 35.36 / sqrt(2).
    assert "| `joint` - `control` | +25.0 [-292.7, +342.7] |" in text
    assert "| `joint` | 62 % | 62.5 [-96.3, 221.3] |" in text
    # Gains of 0.5 and 1.0 nats.
    assert "| `placebo` | 0.75 [-2.43, 3.93] |" in text
    assert (
        "+2.00 [+2.00, +2.00] | +3.00 [+3.00, +3.00] | +3.00 [+3.00, +3.00] | 4.0 [4.0, 4.0] | 0.100" in text
    )


def test_seeds_of_several_machines_are_collected_and_the_table_waits_for_all(tmp_path, monkeypatch):
    out = tmp_path / "results"
    for seed in summary.SEEDS:
        study_folder = tmp_path / f"machine_{seed}"
        monkeypatch.setattr(summary, "finished_seeds", lambda folder, seed=seed: [seed])
        rows = [{"policy": "joint", "decoded_codes": 0, "seed": seed, "task": "reach", "outcomes": "01"}]
        values = [{"codes": "joint", "seed": seed, "measure": "gain", "value": f"{seed / 10:.4f}"}]
        monkeypatch.setattr(summary, "collect", lambda *args, rows=rows, values=values: (rows, values))
        monkeypatch.setattr(sys, "argv", ["summary.py", str(study_folder), "--out", str(out)])
        assert not (out / "summary.md").exists(), "the table is not looked at before all seeds are there"
        summary.main()
        summary.main()
    assert (out / "summary.md").exists()
    again = summary.merge(out / "success.csv", [])
    assert [row["seed"] for row in again] == list(summary.SEEDS)
    assert again[0] == {"policy": "joint", "decoded_codes": 0, "seed": 0, "task": "reach", "outcomes": "01"}
