"""Latent labels through the real commands: `lara label`, then `lerobot-train` of `lara` and `moto_gpt` on them."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from lerobot.policies.factory import make_pre_post_processors
from safetensors.torch import load_file
from support.helpers import run_train
from support.policies import TINY_LAM
from support.tiny_datasets import make_tiny_dataset

from lerobot_lara.cli import main
from lerobot_lara.lam.latent_action_model import LatentActionModel
from lerobot_lara.modeling_lara import LaraPolicy
from lerobot_lara.moto_gpt.modeling_moto_gpt import MotoGPTPolicy

pytestmark = pytest.mark.e2e

SMALL = {
    "policy__image_size": 32,
    "policy__vision_encoder_width": 16,
    "policy__width": 16,
    "policy__num_layers": 3,
    "policy__num_heads": 2,
    "policy__n_action_steps": 8,
    "policy__scheduler_warmup_steps": 0,
    "policy__frame_gap": 4,
}
LARA = SMALL | {"policy__type": "lara", "policy__chunk_size": 8}
MOTO = SMALL | {"policy__type": "moto_gpt", "policy__latent_steps": 2, "policy__dropout": 0.0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Demonstrations, videos, a model, and labels with codes of both."""
    folder = tmp_path_factory.mktemp("labels")
    make_tiny_dataset(folder / "demos", num_episodes=3, num_frames=14)
    make_tiny_dataset(folder / "videos", num_episodes=3, num_frames=14, action=False, state=False, seed=1)
    for name, seed in (("lam", 0), ("other_lam", 1)):
        torch.manual_seed(seed)
        LatentActionModel.from_config(**TINY_LAM).save_pretrained(folder / name)
    lam, labels = str(folder / "lam"), folder / "labels"
    assert main(["label", lam, str(folder / "videos"), f"--out={labels}/videos", "--codebook-size=4"]) == 0
    borrowed = [f"--out={labels}/demos", f"--codebook={labels}/videos"]
    assert main(["label", lam, str(folder / "demos"), *borrowed]) == 0
    other = [f"--out={labels}/other", "--codebook-size=4"]
    assert main(["label", str(folder / "other_lam"), str(folder / "demos"), *other]) == 0
    return folder


def train(folder, name, data="demos", **flags):
    if "policy__path" in flags:
        flags.pop("policy__type", None)
    return run_train(**{"dataset__root": folder / data, "output_dir": folder / name, "steps": 3} | flags)


@pytest.fixture(scope="module")
def labeled(folder):
    return train(folder, "labeled", **LARA, policy__lam_labels=folder / "labels/demos")


def test_a_checkpoint_names_the_model_and_no_path(folder, labeled):
    config = json.loads((labeled.checkpoint / "config.json").read_text())
    assert config["alignment_source"] == "labels" and config["lam_labels"] is None
    assert not (labeled.checkpoint / "lam").exists()
    assert str(folder) not in (labeled.checkpoint / "mixture.json").read_text()
    policy = LaraPolicy.from_pretrained(labeled.checkpoint)
    assert policy.lam is None and policy.alignment is None


def test_training_goes_on_with_the_same_labels(folder, labeled):
    checkpoint = labeled.checkpoint / "train_config.json"
    resumed = run_train(config_path=checkpoint, resume=True, steps=5, output_dir=None)
    assert len(resumed.metrics) == 2


def test_the_model_itself_is_attached_later_and_keeps_the_head(folder, labeled):
    run = train(
        folder,
        "attached",
        policy__path=labeled.checkpoint,
        policy__alignment_source="lam",
        policy__lam_path=folder / "lam",
        policy__optimizer_lr=1e-12,
    )
    before, after = (load_file(each.checkpoint / "alignment.safetensors") for each in (labeled, run))
    for key in ("alignment.alignment_head.1.weight", "alignment.alignment_head.5.weight"):
        torch.testing.assert_close(after[key], before[key], atol=1e-6, rtol=0)
    assert (run.checkpoint / "lam").exists()


def test_labels_of_another_model_start_a_new_head(folder, labeled):
    other, slow = folder / "labels/other", 1e-12  # learns nothing, from another random start
    run = train(
        folder,
        "other",
        policy__path=labeled.checkpoint,
        policy__lam_labels=other,
        policy__optimizer_lr=slow,
        seed=7,
    )
    before, after = (load_file(each.checkpoint / "alignment.safetensors") for each in (labeled, run))
    key = "alignment.alignment_head.5.weight"
    assert (after[key] - before[key]).abs().max() > 0.01


def test_labels_of_another_model_than_lam_path_are_refused(folder):
    with pytest.raises(ValueError, match="the labels are of another latent action model, other_lam"):
        train(
            folder,
            "refused",
            **LARA,
            policy__lam_labels=folder / "labels/other",
            policy__lam_path=folder / "lam",
        )


def write(folder, name, entries, **fields):
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump({"entries": entries, "reference": "demos"} | fields))
    return {"dataset__repo_id": path, "dataset__root": None}


def entries(weight):
    return [
        {"name": "demos", "repo_id": "local/d", "root": "demos", "weight": weight, "labels": "labels/demos"},
        {
            "name": "videos",
            "repo_id": "local/v",
            "root": "videos",
            "action_free": True,
            "labels": "labels/videos",
        },
    ]


def test_lara_pretrains_on_video_alone_and_goes_on_with_demonstrations(folder):
    video = train(folder, "video", **LARA | write(folder, "video", entries(0)))
    for metrics in video.metrics:
        assert metrics["flow_loss"] == 0 and metrics["alignment_loss"] > 0
    run = train(
        folder,
        "posttrained",
        policy__path=video.checkpoint,
        policy__alignment_source="labels",
        policy__lam_labels=folder / "labels/demos",
    )
    assert all(metrics["flow_loss"] > 0 for metrics in run.metrics)


def test_moto_gpt_pretrains_on_video_and_fine_tunes_on_demonstrations(folder):
    video = train(
        folder,
        "moto_video",
        "videos",
        **MOTO,
        policy__predict_actions=False,
        policy__lam_labels=folder / "labels/videos",
    )
    assert all(metrics["latent_loss"] > 0 and "arm_loss" not in metrics for metrics in video.metrics)
    run = train(
        folder,
        "moto",
        policy__path=video.checkpoint,
        policy__predict_actions=True,
        policy__lam_labels=folder / "labels/demos",
    )
    assert all(metrics["latent_loss"] > 0 and metrics["arm_loss"] > 0 for metrics in run.metrics)
    config = json.loads((run.checkpoint / "config.json").read_text())
    assert (config["num_latent_tokens"], config["codebook_size"]) == (2, 4)
    assert config["codebook_per_token"] and config["lam_labels"] is None
    weights = [load_file(each.checkpoint / "model.safetensors") for each in (video, run)]
    assert {key for key in weights[1] if key not in weights[0]} == {
        f"model.{name}"
        for name in (
            *("action_query", "chunk_queries", "embed_state.weight", "embed_state.bias"),
            *(f"action_mlp.{layer}.{kind}" for layer in (0, 1) for kind in ("weight", "bias")),
            *("arm_head.weight", "arm_head.bias"),
        )
    }
    act(run.checkpoint)
    with pytest.raises(ValueError, match="made by another tokenizer"):
        train(folder, "mixed", policy__path=run.checkpoint, policy__lam_labels=folder / "labels/other")


def act(checkpoint):
    policy = MotoGPTPolicy.from_pretrained(checkpoint)
    preprocess, postprocess = make_pre_post_processors(policy.config, checkpoint)
    observation = {
        "observation.image": torch.rand(3, 32, 32),
        "observation.state": torch.rand(4),
        "task": "push the square",
    }
    action = postprocess(policy.select_action(preprocess(observation)))
    assert action.shape == (1, 4) and torch.isfinite(action).all()


def test_moto_gpt_trains_on_demonstrations_and_video_at_once(folder):
    run = train(
        folder, "moto_both", **MOTO | write(folder, "both", entries(1), action_free_share=0.5), batch_size=8
    )
    assert all(metrics["latent_loss"] > 0 and metrics["arm_loss"] > 0 for metrics in run.metrics)
    assert any("latent_loss/videos" in metrics for metrics in run.metrics)


def test_moto_gpt_takes_codes_from_a_live_model(folder):
    torch.manual_seed(0)
    quantized = TINY_LAM | {"quantizer": "vq", "codebook_size": 5}
    LatentActionModel.from_config(**quantized).save_pretrained(folder / "vq")
    live = train(folder, "moto_live", **MOTO, policy__lam_path=folder / "vq")
    assert main(["label", str(folder / "vq"), str(folder / "demos"), f"--out={folder}/labels/vq"]) == 0
    labels = train(folder, "moto_labels", **MOTO, policy__lam_labels=folder / "labels/vq")
    for name in ("latent_loss", "arm_loss"):
        found = [[metrics[name] for metrics in run.metrics] for run in (live, labels)]
        assert found[0] == pytest.approx(found[1], rel=1e-4), name


def test_moto_gpt_without_latent_tokens_needs_no_codes(folder):
    run = train(folder, "moto_plain", **MOTO, policy__predict_latents=False)
    assert all("latent_loss" not in metrics for metrics in run.metrics)
    act(run.checkpoint)


def test_more_latent_steps_than_episodes_are_long_are_refused(folder):
    flags = MOTO | {"policy__latent_steps": 4, "policy__lam_labels": folder / "labels/demos"}
    with pytest.raises(ValueError, match=r"`latent_steps` is 4.*Set latent_steps to 3"):
        train(folder, "too_far", **flags)


def test_streamed_data_has_no_labels(folder):
    flags = LARA | {"policy__lam_labels": folder / "labels/demos", "dataset__streaming": True}
    with pytest.raises(ValueError, match=r"`dataset.streaming` is true; it must be false with latent labels"):
        train(folder, "streamed", **flags)
