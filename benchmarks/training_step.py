"""Time of a training step of lara_lam, lara_dit and lara, in turns within one run, and as ratios.

    python benchmarks/training_step.py [--device=cpu] [--seconds=20] [--batch_size=32]

The networks are those of `configs/demo/`, the batches are random numbers: forward, backward and AdamW, no data loading.
"""

import argparse
import json
import logging
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import yaml
from lerobot.configs import FeatureType, PolicyFeature, PreTrainedConfig

from lerobot_lara import LaraConfig, LaraDiTConfig, LaraLAMConfig
from lerobot_lara.dit.modeling_lara_dit import LaraDiTPolicy
from lerobot_lara.lam.modeling_lara_lam import LaraLAMPolicy
from lerobot_lara.modeling_lara import LaraPolicy

CONFIGS = Path(__file__).parents[1] / "configs" / "demo"
CAMERA, STATE_DIM, ACTION_DIM, TURNS = "observation.image", 4, 4, 5
logger = logging.getLogger("training_step")


class Trainer:
    """Trains one policy on one random batch, and keeps the time."""

    def __init__(self, policy: torch.nn.Module, batch: dict[str, torch.Tensor]) -> None:
        self.policy, self.batch = policy.train(), batch
        self.optimizer = torch.optim.AdamW(policy.get_optim_params(), lr=1e-5)  # type: ignore[operator]
        self.device = next(iter(batch.values())).device
        self.steps, self.seconds = 0, 0.0
        self.train(0)
        self.steps, self.seconds = 0, 0.0

    def train(self, seconds: float) -> None:
        """Trains for about that long, at least one step."""
        start = time.perf_counter()
        while True:
            loss, _ = self.policy(self.batch)
            loss.backward()
            self.optimizer.step()
            self.optimizer.zero_grad()
            if self.device.type == "cuda":
                torch.cuda.synchronize()
            self.steps += 1
            if time.perf_counter() - start >= seconds:
                break
        self.seconds += time.perf_counter() - start

    @property
    def step_ms(self) -> float:
        return 1000 * self.seconds / self.steps


def config_of(kind: type[PreTrainedConfig], name: str, device: str, **fields: Any) -> Any:
    """The configuration of `configs/demo/<name>.yaml` with the features of its data, without a text encoder."""
    content = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())["policy"]
    content = {key: value for key, value in content.items() if key != "type"} | fields | {"device": device}
    config = kind(**content)
    size = content["image_size"]
    config.input_features = {
        CAMERA: PolicyFeature(FeatureType.VISUAL, (3, size, size)),
        "observation.state": PolicyFeature(FeatureType.STATE, (STATE_DIM,)),
    }
    config.output_features = {"action": PolicyFeature(FeatureType.ACTION, (ACTION_DIM,))}
    return config


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seconds", type=float, default=20.0, help="for each policy")
    parser.add_argument("--batch_size", type=int, default=32)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logger.setLevel(logging.INFO)
    torch.manual_seed(0)
    device, size = arguments.device, arguments.batch_size
    lam = LaraLAMPolicy(config_of(LaraLAMConfig, "lam", device))
    with tempfile.TemporaryDirectory() as folder:
        lam.model.save_pretrained(folder)
        lara = LaraPolicy(config_of(LaraConfig, "lara", device, lam_path=folder, text_encoder=None))
    dit = LaraDiTPolicy(config_of(LaraDiTConfig, "dit", device, text_encoder=None))
    side = lara.config.image_size
    pair = {
        CAMERA: torch.rand(size, 2, 3, side, side),
        f"{CAMERA}_is_pad": torch.zeros(size, 2, dtype=torch.bool),
        "observation.state": torch.randn(size, 2, STATE_DIM),
        "action": torch.randn(size, lara.config.chunk_size, ACTION_DIM),
    }
    present = pair | {key: pair[key][:, 0] for key in (CAMERA, "observation.state")}
    present.pop(f"{CAMERA}_is_pad")
    trainers = {
        name: Trainer(policy.to(device), {key: value.to(device) for key, value in batch.items()})
        for name, policy, batch in (
            ("lara_lam", lam, pair),
            ("lara_dit", dit, present),
            ("lara", lara, pair),
        )
    }
    for _ in range(TURNS):
        for trainer in trainers.values():
            trainer.train(arguments.seconds / TURNS)
    times = {name: trainer.step_ms for name, trainer in trainers.items()}
    result = {f"{name}_step_ms": round(value, 1) for name, value in times.items()}
    result |= {
        f"{name}_over_lara_dit": round(times[name] / times["lara_dit"], 2) for name in ("lara", "lara_lam")
    }
    logger.info(json.dumps(result))


if __name__ == "__main__":
    main()
