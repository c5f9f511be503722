"""Every run configuration parses as `lerobot-train --config_path=` would, and says what it must."""

import os
import subprocess
from pathlib import Path

import draccus
import pytest
import yaml
from lerobot.configs.train import TrainPipelineConfig

import lerobot_lara  # noqa: F401  registers the policy types
from lerobot_lara.data.mixture.config import load_mixture

ROOT = Path(__file__).parents[1] / "configs"
MIXTURES = sorted([*(ROOT / "mixtures").glob("*.yaml"), ROOT / "demo" / "mixture.yaml"])
LAUNCHERS = sorted((ROOT / "accelerate").glob("*.yaml"))
CONFIGS = sorted(set(ROOT.rglob("*.yaml")) - set(MIXTURES) - set(LAUNCHERS))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_configuration(path, tmp_path):
    text = path.read_text()
    header = text.split("dataset:")[0]
    for word in (
        f"lerobot-train) --config_path=configs/{path.parent.name}/{path.name}",
        "Hardware:",
        "Batch",
    ):
        assert word.replace(") ", " ") in header.replace(") ", " "), word
    assert "xpected time" in header and "paper" in header
    content = yaml.safe_load(text)
    if "path" in content["policy"]:  # resolved from the checkpoint, of which there is none here
        content["policy"] = {"type": "lara"} | {k: v for k, v in content["policy"].items() if k != "path"}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(content))
    config = draccus.parse(TrainPipelineConfig, tmp_path / "config.yaml", args=["--policy.device=cpu"])
    assert config.policy.type in ("lara_lam", "lara_dit", "lara", "lara_groot_n16", "lara_pi05", "moto_gpt")
    assert config.batch_size == content["batch_size"] and config.steps == content["steps"]


@pytest.mark.parametrize("path", MIXTURES, ids=lambda path: path.stem)
def test_mixture(path):
    assert path.read_text().startswith("#")
    config = load_mixture(path)
    assert len(config.used_entries) > 1
    assert not config.reference_entry.action_free


@pytest.mark.parametrize("path", LAUNCHERS, ids=lambda path: path.stem)
def test_launcher(path):
    """accelerate takes it."""
    from accelerate.commands.config.config_args import load_config_from_file

    config = load_config_from_file(str(path))
    assert config.distributed_type.value == {"ddp": "MULTI_GPU", "fsdp": "FSDP"}[path.stem]


def test_slurm_script_is_a_shell_script(tmp_path):
    """It starts one launcher per machine, with the flags that it was given."""
    for name, text in (
        ("scontrol", "printf 'node-a\\nnode-b\\n'"),
        ("srun", 'exec "$@"'),
        ("accelerate", 'printf "%s\\n" "$@"'),
        ("lerobot-train", "true"),
    ):
        (tmp_path / name).write_text(f"#!/bin/bash\n{text}\n")
        (tmp_path / name).chmod(0o755)
    slurm = {
        "SLURM_JOB_NODELIST": "node-[a-b]",
        "SLURM_NNODES": "2",
        "SLURM_NODEID": "1",
        "SLURM_GPUS_ON_NODE": "4",
    }
    environment = os.environ | slurm | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    command = ["bash", str(ROOT / "accelerate" / "slurm.sh"), "--steps=3", "--policy.repo_id=me/a b"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    arguments = done.stdout.splitlines()
    assert {"--num_machines=2", "--num_processes=8", "--machine_rank=1", "--main_process_ip=node-a"} <= set(
        arguments
    )
    assert arguments[-2:] == ["--steps=3", "--policy.repo_id=me/a b"]


def test_the_papers_size_and_cost_are_up_to_date(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT.parent / "benchmarks"))
    import paper_scale

    message = "run python benchmarks/paper_scale.py"
    assert paper_scale.describe() == (ROOT / "paper" / "README.md").read_text(), message


def test_the_paper_is_the_paper():
    """Figures of the paper's stages 1 and 2 that a slip would change unnoticed."""
    stage_1, stage_2 = (
        yaml.safe_load((ROOT / "paper" / name).read_text())["policy"]
        for name in ("stage1_lam.yaml", "stage2_lara.yaml")
    )
    assert (stage_1["codebook_size"], stage_1["latent_dim"], stage_1["num_latent_tokens"]) == (128, 32, 8)
    assert stage_2["action_head"] == "gr00t" and stage_2["projection_width"] == 1024
    assert (stage_2["vlm"], stage_2["vlm_layer"], stage_2["vlm_self_attention_layers"]) == (
        "qwen3-vl-2b",
        12,
        4,
    )
    assert stage_2["width"] == 32 * 48 and stage_2["num_layers"] == 16
    assert stage_2["alignment_layer"] == stage_2["num_layers"] - 2
    assert stage_2["alignment_loss_weight"] == stage_2["lam_loss_weight"] == 0.01
    assert stage_2["frame_gap"] == stage_1["frame_gap"] == 15
