"""Writes an untrained `lara_dit` checkpoint whose image encoder has the weights of a latent action model's."""

import argparse
from pathlib import Path

import yaml
from lerobot.policies.factory import make_policy, make_pre_post_processors
from lerobot.utils.import_utils import get_safe_default_video_backend
from lerobot.utils.random_utils import set_seed

from lerobot_lara import LaraDiTConfig
from lerobot_lara.data.mixture.build import build_mixture
from lerobot_lara.data.mixture.config import load_mixture
from lerobot_lara.lam.latent_action_model import LatentActionModel


def main() -> None:
    """Writes the checkpoint into the output folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("config", "mixture", "lam_path", "output"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--seed", type=int, required=True)
    arguments = parser.parse_args()
    fields = yaml.safe_load(arguments.config.read_text())["policy"]
    config = LaraDiTConfig(**{name: value for name, value in fields.items() if name != "type"})
    backend = get_safe_default_video_backend()
    dataset, _ = build_mixture(
        load_mixture(arguments.mixture), config, path=arguments.mixture, video_backend=backend
    )
    set_seed(arguments.seed)
    policy = make_policy(config, ds_meta=dataset.meta)
    lam = LatentActionModel.from_pretrained(arguments.lam_path)
    # Strict: an encoder of another architecture is an error, not a partial copy.
    policy.observation_encoder.image_encoder.load_state_dict(lam.frame_encoder.state_dict())
    preprocessor, postprocessor = make_pre_post_processors(config, dataset_stats=dataset.meta.stats)
    for part in (policy, preprocessor, postprocessor):
        part.save_pretrained(arguments.output)


if __name__ == "__main__":
    main()
