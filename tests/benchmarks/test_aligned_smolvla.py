"""The latent action model that the benchmarks call the paper's is that of the paper's configuration."""

import importlib
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]


def test_the_lam_is_that_of_the_papers_configuration(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    benchmark = importlib.import_module("aligned_smolvla")
    policy = yaml.safe_load((ROOT / "configs" / "paper" / "stage1_lam.yaml").read_text())["policy"]
    # What does not shape the network, and the encoder and the perceptual loss, which the benchmark says it replaces.
    other = {"type", "repo_id", "dtype", "frame_gap", "frame_encoder"}
    shape = {
        name: value
        for name, value in policy.items()
        if name not in other and not name.startswith(("perceptual", "optimizer", "scheduler"))
    }
    assert shape == benchmark.PAPER_LAM and policy["frame_gap"] == benchmark.FRAME_GAP
