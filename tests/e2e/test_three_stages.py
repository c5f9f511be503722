"""The three stages through LeRobot's own `lerobot-train` and `lerobot-eval`, in this process."""

import json
import re
from pathlib import Path

import pytest
import torch
from lerobot.policies.factory import make_pre_post_processors
from safetensors.torch import load_file
from support.helpers import run_eval, run_train
from support.tiny_datasets import make_tiny_dataset

from lerobot_lara.dit.modeling_lara_dit import LaraDiTPolicy
from lerobot_lara.lam.latent_action_model import LatentActionModel
from lerobot_lara.lam.modeling_lara_lam import LaraLAMPolicy
from lerobot_lara.modeling_lara import LaraPolicy
from lerobot_lara.publish.export import export_base, export_lam

pytestmark = pytest.mark.e2e

DIT = {
    "policy__image_size": 32,
    "policy__vision_encoder_width": 16,
    "policy__width": 16,
    "policy__num_layers": 3,
    "policy__num_heads": 2,
    "policy__chunk_size": 8,
    "policy__n_action_steps": 8,
    "policy__scheduler_warmup_steps": 0,
}
LAM = {
    "policy__frame_gap": 3,
    "policy__image_size": 32,
    "policy__prediction_size": 16,
    "policy__frame_encoder_width": 16,
    "policy__idm_width": 16,
    "policy__idm_num_layers": 1,
    "policy__idm_num_heads": 2,
    "policy__fdm_width": 16,
    "policy__fdm_num_layers": 1,
    "policy__fdm_num_heads": 2,
    "policy__scheduler_warmup_steps": 0,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("stages")
    make_tiny_dataset(folder / "demos", num_episodes=3, num_frames=14)
    make_tiny_dataset(folder / "videos", num_episodes=3, num_frames=14, action=False, state=False, seed=1)
    return folder


@pytest.fixture(scope="module")
def lam_run(folder):
    return run_train(
        policy__type="lara_lam", dataset__root=folder / "videos", output_dir=folder / "lam", steps=4, **LAM
    )


@pytest.fixture(scope="module")
def lara_run(folder, lam_run):
    return run_train(
        policy__type="lara",
        policy__lam_path=lam_run.checkpoint,
        policy__frame_gap=3,
        policy__lam_lr=1e-4,
        dataset__root=folder / "demos",
        output_dir=folder / "lara",
        steps=4,
        save_freq=2,
        **DIT,
    )


@pytest.fixture(scope="module")
def dit_run(folder):
    return run_train(
        policy__type="lara_dit", dataset__root=folder / "demos", output_dir=folder / "dit", steps=3, **DIT
    )


def test_every_term_is_logged(lara_run):
    for name in (
        "flow_loss",
        "alignment_loss",
        "alignment_retrieval",
        "alignment_centered_cosine",
        "latent_effective_rank",
        "lam_loss",
        "lam_reconstruction_loss",
        "lam_psnr",
        "lam_copy_psnr",
    ):
        values = lara_run.values(name)
        assert len(values) == 4 and all(torch.isfinite(torch.tensor(values))), name


def test_resuming_continues_the_same_run(folder, lara_run):
    """Steps 3 and 4 again from the checkpoint of step 2: same data, noise and learning rates."""
    checkpoint = lara_run.output_dir / "checkpoints" / "000002" / "pretrained_model" / "train_config.json"
    first = lara_run.metrics[2:]
    resumed = run_train(config_path=checkpoint, resume=True, output_dir=None)
    assert len(resumed.metrics) == 2
    for before, after in zip(first, resumed.metrics, strict=True):
        for name in ("lam_copy_psnr", "lr", "flow_loss", "lam_reconstruction_loss", "alignment_loss"):
            assert after[name] == pytest.approx(before[name], rel=1e-5), name


def test_stage_three_starts_from_the_policys_path(folder, lara_run):
    run = run_train(
        policy__path=lara_run.checkpoint,
        dataset__root=folder / "demos",
        output_dir=folder / "stage_3",
        steps=1,
        policy__optimizer_lr=1e-12,
        policy__lam_lr=1e-12,
    )
    before, after = (load_file(r.checkpoint / "lam" / "model.safetensors") for r in (lara_run, run))
    for key, value in before.items():
        torch.testing.assert_close(after[key], value, atol=1e-6, rtol=0)
    policy = LaraPolicy.from_pretrained(run.checkpoint)
    assert policy.lam is None and policy.config.frame_gap == 3


def test_exports_are_complete_artifacts(folder, lara_run):
    export_lam(lara_run.checkpoint, folder / "exported_lam")
    export_base(lara_run.checkpoint, folder / "exported_dit")
    frames = torch.rand(2, 2, 3, 32, 32)
    inside = LatentActionModel.from_pretrained(lara_run.checkpoint, subfolder="lam").encode(frames)
    for lam in (
        LatentActionModel.from_pretrained(folder / "exported_lam"),
        LaraLAMPolicy.from_pretrained(folder / "exported_lam", strict=True).model,
    ):
        assert torch.equal(inside.latent_action, lam.encode(frames).latent_action)
    batch = {
        "observation.image": torch.rand(1, 3, 32, 32),
        "observation.state": torch.rand(1, 4),
        "task": ["push the square"],
    }
    chunks = []
    for policy_class, path in ((LaraPolicy, lara_run.checkpoint), (LaraDiTPolicy, folder / "exported_dit")):
        policy = policy_class.from_pretrained(path, strict=True)
        pre, post = make_pre_post_processors(policy.config, pretrained_path=str(path))
        chunks.append(post(policy.predict_action_chunk(pre(dict(batch)), noise=torch.ones(1, 8, 4))))
    assert torch.equal(*chunks)
    assert json.loads((folder / "exported_dit" / "config.json").read_text())["type"] == "lara_dit"
    with pytest.raises(ValueError, match="exists already"):
        export_base(lara_run.checkpoint, folder / "exported_dit")
    with pytest.raises(ValueError, match=r"type 'lara_dit'.*'lara'"):
        export_lam(folder / "exported_dit", folder / "nothing")


def test_exported_lam_trains_on(folder, lara_run):
    if not (folder / "exported_lam").exists():
        export_lam(lara_run.checkpoint, folder / "exported_lam")
    run = run_train(
        policy__path=folder / "exported_lam",
        dataset__root=folder / "videos",
        output_dir=folder / "lam_again",
        steps=1,
    )
    assert run.values("reconstruction_loss")[0] > 0


@pytest.mark.parametrize("kind", ["lara_dit", "lara"])
def test_evaluates_in_the_simulator(folder, kind, request):
    pytest.importorskip("metaworld")
    run = request.getfixturevalue("dit_run" if kind == "lara_dit" else "lara_run")
    flags = {"policy__path": run.checkpoint, "env__task": "reach-v3", "env__image_size": 32}
    flags |= {"env__episode_length": 10, "eval__n_episodes": 2, "output_dir": folder / f"eval_{kind}"}
    with pytest.raises(ValueError, match=r"`embodiment` is 'hand'; the policy knows \['default'\]"):
        run_eval(**flags, policy__embodiment="hand")
    info = run_eval(**flags)
    assert info["overall"]["pc_success"] == 0 and info["overall"]["n_episodes"] == 2


def test_action_free_data_is_for_the_lam_only(folder, lam_run):
    for options in (
        {"policy__type": "lara_dit"},
        {"policy__type": "lara", "policy__lam_path": lam_run.checkpoint},
    ):
        with pytest.raises(ValueError, match=r"no `action` column.*lara_lam"):
            run_train(dataset__root=folder / "videos", output_dir=folder / "never", **options)


def test_existing_output_folder_is_not_overwritten(folder, dit_run):
    weights = dit_run.checkpoint / "model.safetensors"
    before = weights.read_bytes()
    with pytest.raises(FileExistsError, match="already exists"):
        run_train(policy__type="lara_dit", dataset__root=folder / "demos", output_dir=folder / "dit", **DIT)
    assert weights.read_bytes() == before


def test_validation_loss_on_held_out_episodes(folder, lam_run, capfd):
    run_train(
        policy__type="lara",
        policy__lam_path=lam_run.checkpoint,
        policy__frame_gap=3,
        dataset__root=folder / "demos",
        dataset__eval_split=0.3,
        eval_steps=1,
        output_dir=folder / "with_validation",
        steps=1,
        **DIT,
    )
    losses = re.findall(r"eval_loss=([\d.]+)", "".join(capfd.readouterr()))
    assert len(losses) == 1 and 0 < float(losses[0]) < 10
