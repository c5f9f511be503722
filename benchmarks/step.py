"""Training steps of lara_lam, lara_dit, lara and lara on labels in one run: times, ratios, memory, parts of the LAM.

    python benchmarks/step.py [--scale=demo] [--device=cpu] [--seconds=20] [--batch_size=32]

The policies take turns, so that other load on the machine slows all alike. Scale `demo` has the networks of
configs/demo/, `reference` those of configs/paper/ with random weights, without the perceptual loss if VGG16's weights
are not available. A step is forward, backward and AdamW on random numbers, without data loading. The peak memory of
each policy is measured in a separate process.
"""

import argparse
import json
import logging
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import yaml
from lerobot.configs import FeatureType, PolicyFeature, PreTrainedConfig
from reference_models import write_qwen3_vl_2b, write_vit_mae_large
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from lerobot_lara import LaraConfig, LaraDiTConfig, LaraLAMConfig
from lerobot_lara.backbones.vision_language import InstructionPrompt, image_size_of
from lerobot_lara.batch.keys import LATENT_ACTION, LATENT_ACTION_IS_PAD, LATENT_SHIFT, PROMPT
from lerobot_lara.dit.modeling_lara_dit import LaraDiTPolicy
from lerobot_lara.lam.frame_encoder import encode_frames
from lerobot_lara.lam.modeling_lara_lam import LaraLAMPolicy
from lerobot_lara.modeling_lara import LaraPolicy

CONFIGS = Path(__file__).parents[1] / "configs"
CAMERA, STATE_DIM, ACTION_DIM, TURNS = "observation.image", 4, 4, 5
TYPES = ("lara_lam", "lara_dit", "lara", "lara_labels")
# L * C of the latent action model at each scale.
LATENT_WIDTH = {"demo": 32, "reference": 256}
logger = logging.getLogger("step")


class Scale:
    """The three policies at one size, without external data or weights.

    Args:
        name: "demo" or "reference".
        folder: Folder for the LAM that lara aligns with and for configurations of large models.
        device: Device on which the policies train.
    """

    def __init__(self, name: str, folder: Path, device: str) -> None:
        self.name, self.folder, self.device = name, folder, device
        if name == "demo":
            self.files = {
                kind: f"demo/{file}" for kind, file in zip(TYPES, ("lam", "dit", "lara", "lara"), strict=True)
            }
            self.changes: dict[str, dict[str, Any]] = {
                "lara_lam": {},
                "lara_dit": {"text_encoder": None},
                "lara": {"text_encoder": None},
                "lara_labels": {"text_encoder": None},
            }
        else:
            self.files = {
                "lara_lam": "paper/stage1_lam",
                "lara_dit": "paper/stage2_lara",
                "lara": "paper/stage2_lara",
                "lara_labels": "paper/stage2_lara",
            }
            vlm = {"vlm": write_qwen3_vl_2b(folder / "vlm")}
            lam = {"frame_encoder": write_vit_mae_large(folder / "mae")}
            if not any(Path(torch.hub.get_dir(), "checkpoints").glob("vgg16*")):
                lam["perceptual_loss_weight"] = 0.0
            self.changes = {"lara_lam": lam, "lara_dit": vlm, "lara": vlm, "lara_labels": vlm}

    def build(self, kind: str) -> torch.nn.Module:
        """Builds a new policy of the given type."""
        torch.manual_seed(0)
        if kind == "lara_lam":
            return LaraLAMPolicy(self._config(LaraLAMConfig, kind)).to(self.device)
        if kind == "lara_dit":
            return LaraDiTPolicy(self._config(LaraDiTConfig, kind)).to(self.device)
        if kind == "lara_labels":
            labeled = {"alignment_source": "labels", "alignment_target": "stop"}
            manifest = SimpleNamespace(
                latent_width=LATENT_WIDTH[self.name], lam={"name": "benchmark"}, lam_sha256=""
            )
            meta = SimpleNamespace(latent_labels=manifest, episodes={"length": [1000]})
            return LaraPolicy(self._config(LaraConfig, kind, **labeled), dataset_meta=meta).to(self.device)
        lam = self.folder / "lam"
        if not lam.exists():
            LaraLAMPolicy(self._config(LaraLAMConfig, "lara_lam")).model.save_pretrained(lam)
        return LaraPolicy(self._config(LaraConfig, kind, lam_path=str(lam))).to(self.device)

    def batch(self, policy: Any, size: int) -> dict[str, torch.Tensor]:
        """Makes a batch of random numbers for a policy."""
        config = policy.config
        pairs = () if config.observation_delta_indices is None else (2,)
        side = 224 if getattr(config, "conditioning", "encoders") == "vlm" else config.image_size
        batch = {
            CAMERA: torch.rand(size, *pairs, 3, side, side),
            "observation.state": torch.randn(size, *pairs, STATE_DIM),
        }
        if getattr(config, "label_request", None) is not None:
            batch[LATENT_ACTION] = torch.randn(size, LATENT_WIDTH[self.name])
            batch[LATENT_ACTION_IS_PAD] = torch.zeros(size, dtype=torch.bool)
            batch[LATENT_SHIFT] = torch.zeros(size, 2, dtype=torch.int64)
        if pairs:
            batch[f"{CAMERA}_is_pad"] = torch.zeros(size, 2, dtype=torch.bool)
        if isinstance(policy, LaraDiTPolicy):
            batch["action"] = torch.randn(size, config.chunk_size, ACTION_DIM)
            if config.conditioning == "vlm":
                vlm_side = image_size_of(config.vlm, chosen=config.vlm_image_size)
                prepare = InstructionPrompt(config.vlm, num_cameras=1, image_size=vlm_side, max_length=64)
                prompt = prepare(["pick up the red block and put it into the drawer"] * size)
                batch["observation.language.tokens"] = prompt.pop("input_ids")
                batch["observation.language.attention_mask"] = prompt.pop("attention_mask").bool()
                batch |= {PROMPT + name: values for name, values in prompt.items()}
        return {key: value.to(self.device) for key, value in batch.items()}

    def _config(self, config_class: type[PreTrainedConfig], kind: str, **fields: Any) -> Any:
        content = yaml.safe_load((CONFIGS / f"{self.files[kind]}.yaml").read_text())["policy"]
        known = config_class.__dataclass_fields__
        content = {key: value for key, value in content.items() if key in known and key != "type"}
        config = config_class(
            **content | self.changes[kind] | fields | {"device": self.device, "repo_id": None}
        )
        side = content.get("image_size", 224)
        config.input_features = {
            CAMERA: PolicyFeature(FeatureType.VISUAL, (3, side, side)),
            "observation.state": PolicyFeature(FeatureType.STATE, (STATE_DIM,)),
        }
        if kind != "lara_lam":
            config.output_features = {"action": PolicyFeature(FeatureType.ACTION, (ACTION_DIM,))}
        return config


class Trainer:
    """Trains a policy on a single batch and measures the time."""

    def __init__(self, policy: Any, batch: dict[str, torch.Tensor]) -> None:
        self.policy, self.batch = policy.train(), batch
        self.optimizer = policy.config.get_optimizer_preset().build(policy.get_optim_params())
        self.device = next(iter(batch.values())).device
        self.steps, self.seconds = 0, 0.0
        self.step()

    def step(self) -> None:
        """Takes one training step."""
        reduced = self.policy.config.dtype == "bfloat16"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=reduced):
            loss, _ = self.policy(self.batch)
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def train(self, seconds: float) -> None:
        """Trains for about the given number of seconds, at least one step."""
        steps, spent = repeat(self.step, seconds, self.device)
        self.steps += steps
        self.seconds += spent

    @property
    def step_ms(self) -> float:
        """Mean duration of a step in milliseconds."""
        return 1000 * self.seconds / self.steps


def repeat(function: Callable[[], Any], seconds: float, device: torch.device) -> tuple[int, float]:
    """Calls a function at least once and for about `seconds`, and returns the number of calls and their duration."""
    count, start = 0, time.perf_counter()
    while True:
        function()
        if device.type == "cuda":
            torch.cuda.synchronize()
        count += 1
        if time.perf_counter() - start >= seconds:
            return count, time.perf_counter() - start


def matmul_flops(device: torch.device, dtype: torch.dtype, seconds: float) -> float:
    """FLOP per second of a large matrix product, as an upper bound for the hardware."""
    side = 8192 if device.type == "cuda" else 1024
    a = torch.randn(side, side, device=device, dtype=dtype)
    repeat(lambda: a @ a, 0.1, device)
    count, spent = repeat(lambda: a @ a, seconds, device)
    return 2 * side**3 * count / spent


def lam_breakdown(policy: LaraLAMPolicy, batch: dict[str, torch.Tensor], seconds: float) -> dict[str, float]:
    """Milliseconds of the LAM's parts, forward and backward; only forward for a frozen encoder."""
    lam, frames = policy.model, batch[CAMERA]
    tokens = [part.detach() for part in encode_frames(lam.frame_encoder, frames)]
    latent = lam.inverse_dynamics(*tokens).detach()
    features = tokens[0] if lam.predicts_features else None
    prediction = torch.rand_like(lam.forward_dynamics(frames[:, 0], latent, features)[0]).requires_grad_()

    def encode() -> None:
        out = lam.frame_encoder(frames.flatten(0, 1))
        if out.requires_grad:
            out.sum().backward()

    parts: dict[str, Callable[[], Any]] = {
        "frame_encoder": encode,
        "inverse_dynamics": lambda: lam.inverse_dynamics(*tokens).sum().backward(),
        "forward_dynamics": lambda: lam.forward_dynamics(frames[:, 0], latent, features)[0].sum().backward(),
    }
    if lam.perceptual is not None:
        future = torch.rand_like(prediction)
        parts["perceptual"] = lambda: lam.perceptual(prediction, future).sum().backward()
    times = {}
    reduced = policy.config.dtype == "bfloat16"
    for name, run in parts.items():
        with torch.autocast(frames.device.type, torch.bfloat16, enabled=reduced):
            run()
            count, spent = repeat(run, seconds, frames.device)
        times[f"lam_{name}_ms"] = round(1000 * spent / count, 1)
    return times


def peak_memory(policy_type: str, arguments: argparse.Namespace) -> float:
    """Peak memory of two training steps of a policy in megabytes, measured in a separate process."""
    command = [sys.executable, __file__, f"--scale={arguments.scale}", f"--device={arguments.device}"]
    command += [f"--batch_size={arguments.batch_size}", f"--memory_of={policy_type}"]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return float(output.splitlines()[-1])


def measure_memory(policy_type: str, scale: Scale, batch_size: int) -> float:
    """Measures what `peak_memory` returns; on the CPU (Linux), the growth of the process beyond its imports."""
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = process_memory("VmRSS")
    policy = scale.build(policy_type)
    trainer = Trainer(policy, scale.batch(policy, batch_size))
    trainer.step()
    if trainer.device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 1e6
    return process_memory("VmHWM") - before


def process_memory(name: str) -> float:
    """Megabytes of this process as counted by Linux: `VmRSS` now, `VmHWM` at the peak."""
    status = Path("/proc/self/status").read_text()
    [line] = [line for line in status.splitlines() if line.startswith(name)]
    return int(line.split()[1]) / 1e3


def main() -> None:
    """Logs all measurements as one JSON object."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scale", choices=("demo", "reference"), default="demo")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seconds", type=float, default=20.0, help="for each policy")
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--memory_of", choices=TYPES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logger.setLevel(logging.INFO)
    with tempfile.TemporaryDirectory() as folder:
        scale = Scale(arguments.scale, Path(folder), arguments.device)
        if arguments.memory_of:
            sys.stdout.write(f"{measure_memory(arguments.memory_of, scale, arguments.batch_size)}\n")
            return
        trainers = {}
        for kind in TYPES:
            policy = scale.build(kind)
            trainers[kind] = Trainer(policy, scale.batch(policy, arguments.batch_size))
        for _ in range(TURNS):
            for trainer in trainers.values():
                trainer.train(arguments.seconds / TURNS)
        times = {kind: trainer.step_ms for kind, trainer in trainers.items()}
        result: dict[str, float] = {f"{kind}_step_ms": round(value, 1) for kind, value in times.items()}
        for kind in ("lara", "lara_labels", "lara_lam"):
            result[f"{kind}_over_lara_dit"] = round(times[kind] / times["lara_dit"], 2)
        device = trainers["lara"].device
        dtype = getattr(torch, trainers["lara"].policy.config.dtype)
        best = matmul_flops(device, dtype, 1.0)
        flops = {}
        for kind, trainer in trainers.items():
            with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
                trainer.step()
            flops[kind] = counter.get_total_flops()
            result[f"{kind}_share_of_matmul_speed"] = round(flops[kind] / (times[kind] / 1000) / best, 2)
        for kind in ("lara", "lara_labels"):
            result[f"{kind}_over_lara_dit_flops"] = round(flops[kind] / flops["lara_dit"], 3)
        lam = trainers["lara_lam"]
        result |= lam_breakdown(lam.policy, lam.batch, arguments.seconds / 10)
        trainers.clear()
        for kind in TYPES:
            result[f"{kind}_peak_mb"] = round(peak_memory(kind, arguments))
        result["lara_over_lara_dit_memory"] = round(result["lara_peak_mb"] / result["lara_dit_peak_mb"], 2)
    logger.info(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
