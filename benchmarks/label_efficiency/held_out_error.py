"""Measures how far a policy's actions are from the expert's on held-out demonstrations.

This is far less noisy than the share of solved scenes, so that remedies can be screened with few trainings. It says
nothing about recovering from the policy's own mistakes.

    python benchmarks/label_efficiency/held_out_error.py --policy.path=<checkpoint> --root=<demos> --first_episode=15 \
        --output_dir=<folder>
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from lerobot.datasets import LeRobotDataset, LeRobotDatasetMetadata
from lerobot.policies.factory import make_pre_post_processors

from lerobot_lara.dit.modeling_lara_dit import LaraDiTPolicy
from lerobot_lara.modeling_lara import LaraPolicy

POLICIES = {"lara_dit": LaraDiTPolicy, "lara": LaraPolicy}
EVERY = 3
NUM_SAMPLES = 4
BATCH_SIZE = 64


@torch.no_grad()
def errors_by_episode(checkpoint: Path, root: Path, first_episode: int) -> dict[int, float]:
    """Computes the mean squared error of the executed actions in normalized units.

    The policy's actions are averaged over several samples, so that its own variance has little influence.

    Args:
        checkpoint: Folder of the policy.
        root: Folder of the dataset with the demonstrations.
        first_episode: First held-out episode; all later ones are held out too.

    Returns:
        Error by episode.
    """
    policy_type = json.loads((checkpoint / "config.json").read_text())["type"]
    policy = POLICIES[policy_type].from_pretrained(checkpoint).eval()
    config = policy.config
    preprocessor, _ = make_pre_post_processors(config, pretrained_path=str(checkpoint))
    meta = LeRobotDatasetMetadata(root.name, root=root)
    dataset = LeRobotDataset(
        root.name,
        root=root,
        delta_timestamps={"action": [step / meta.fps for step in range(config.n_action_steps)]},
    )
    starts, ends = meta.episodes["dataset_from_index"], meta.episodes["dataset_to_index"]
    indices = list(range(starts[first_episode], ends[-1], EVERY))
    generator = torch.Generator().manual_seed(0)  # the same noise for every policy
    errors: dict[int, list[float]] = {}
    for first in range(0, len(indices), BATCH_SIZE):
        samples = [dataset[index] for index in indices[first : first + BATCH_SIZE]]
        batch = preprocessor(torch.utils.data.default_collate(samples))
        shape = (NUM_SAMPLES, len(samples), config.chunk_size, config.action_dim)
        noises = torch.randn(shape, generator=generator).to(config.device)
        chunks = [policy.predict_action_chunk(batch, noise) for noise in noises]
        predicted = torch.stack(chunks).mean(0)[:, : config.n_action_steps]
        squared = (predicted - batch["action"]).square().mean(-1)  # (B, n_action_steps)
        valid = ~batch["action_is_pad"]
        for sample, error, keep in zip(samples, squared, valid, strict=True):
            errors.setdefault(int(sample["episode_index"]), []).append(error[keep].mean().item())
    return {episode: float(np.mean(values)) for episode, values in errors.items()}


def main() -> None:
    """Writes `held_out.json` into the output folder."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--policy.path", dest="checkpoint", type=Path, required=True)
    parser.add_argument("--root", type=Path, required=True, help="dataset of demonstrations")
    parser.add_argument("--first_episode", type=int, required=True, help="the first that is held out")
    parser.add_argument("--output_dir", type=Path, required=True)
    arguments = parser.parse_args()
    errors = errors_by_episode(arguments.checkpoint, arguments.root, arguments.first_episode)
    arguments.output_dir.mkdir(parents=True, exist_ok=True)
    (arguments.output_dir / "held_out.json").write_text(json.dumps(errors))


if __name__ == "__main__":
    main()
