"""What alignment costs SmolVLA at its released size, with random weights: step time, memory and FLOPs.

    python benchmarks/aligned_smolvla.py --device=cuda [--batch_sizes=8,32] [--seconds=3]    # --tiny: on a CPU

A step is forward, backward and AdamW under bfloat16 autocast, with two cameras of 512 x 512 pixels and a chunk of 50
actions, and trains what LeRobot trains by default: the action expert. The latent action model is the paper's (with
ViT-MAE-L as its frozen frame encoder) or the small default one, each trained or frozen. All variants, the plain
SmolVLA first, are measured in one run.
"""

import argparse
import json
import logging
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lerobot.configs import FeatureType, PolicyFeature
from lerobot.policies.smolvla.configuration_smolvla import SmolVLAConfig
from lerobot.policies.smolvla.modeling_smolvla import SmolVLAPolicy
from reference_models import write_smolvlm2_500m, write_vit_mae_large
from step import repeat
from torch.utils.flop_counter import FlopCounterMode

from lerobot_lara.alignment.bases.smolvla import LaraSmolVLAConfig, LaraSmolVLAPolicy
from lerobot_lara.backbones.encoders import Frozen
from lerobot_lara.batch.keys import FRAME_PAIR, FRAME_PAIR_IS_PAD
from lerobot_lara.lam.latent_action_model import LatentActionModel

CAMERAS = ("observation.images.front", "observation.images.wrist")
FRAME_GAP, STATE_DIM, ACTION_DIM, PROMPT = 15, 6, 6, 48
# As in configs/paper/stage1_lam.yaml, without the perceptual loss, whose network would have to be at hand.
PAPER_LAM = {
    "image_size": 224,
    "prediction_size": 224,
    "num_latent_tokens": 8,
    "latent_dim": 32,
    "idm_width": 768,
    "idm_num_layers": 4,
    "idm_num_heads": 12,
    "fdm_width": 768,
    "fdm_num_layers": 12,
    "fdm_num_heads": 12,
    "fdm_patch_size": 16,
    "mlp_ratio": 4.0,
    "latent_projection": "tanh_mlp",
    "normalize_latent": False,
    "quantizer": "vq",
    "codebook_size": 128,
    "residual_prediction": False,
    "change_weight": 0.0,
}
logger = logging.getLogger("aligned_smolvla")


def main() -> None:
    """Logs one line of JSON for each variant and batch size."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--batch_sizes", default="8,32")
    parser.add_argument("--seconds", type=float, default=3.0, help="about how long each measurement takes")
    parser.add_argument("--tiny", action="store_true", help="few layers, to try the script on a CPU")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s", force=True)
    with tempfile.TemporaryDirectory() as folder:
        policies = build(Path(folder), torch.device(args.device), tiny=args.tiny)
    for size in map(int, args.batch_sizes.split(",")):
        rows = {name: measure(policy, size, args.seconds) for name, policy in policies.items()}
        plain = rows["smolvla"]
        for name, row in rows.items():
            ratios = {f"{key}_ratio": round(row[key] / plain[key], 3) for key in row if plain[key]}
            logger.info(json.dumps({"batch": size, "variant": name} | row | ratios))


def build(folder: Path, device: torch.device, *, tiny: bool) -> dict[str, SmolVLAPolicy]:
    """The plain policy, and one aligned with each latent action model."""
    vlm = write_smolvlm2_500m(folder / "vlm", tiny=tiny)
    lams = {"small": {}, "paper": PAPER_LAM | {"frame_encoder": write_vit_mae_large(folder / "mae")}}
    if tiny:
        del lams["paper"]
    images = {camera: PolicyFeature(FeatureType.VISUAL, (3, 512, 512)) for camera in CAMERAS}
    options: dict[str, Any] = {
        "vlm_model_name": vlm,
        "load_vlm_weights": False,
        "device": str(device),
        "push_to_hub": False,
        "input_features": images | {"observation.state": PolicyFeature(FeatureType.STATE, (STATE_DIM,))},
        "output_features": {"action": PolicyFeature(FeatureType.ACTION, (ACTION_DIM,))},
    }
    if tiny:
        options |= {"num_vlm_layers": 2, "resize_imgs_with_padding": (64, 64)}
    policies: dict[str, SmolVLAPolicy] = {"smolvla": SmolVLAPolicy(SmolVLAConfig(**options)).to(device)}
    for name, settings in lams.items():
        LatentActionModel.from_config(frame_gap=FRAME_GAP, **settings).save_pretrained(folder / name)
        for frozen in (False, True):
            config = LaraSmolVLAConfig(
                **options, lam_path=str(folder / name), frame_gap=FRAME_GAP, freeze_lam=frozen
            )
            variant = f"lara_smolvla, {name} LAM{', frozen' if frozen else ''}"
            policies[variant] = LaraSmolVLAPolicy(config).to(device)
    sizes = {name: sum(p.numel() for p in policy.parameters()) / 1e6 for name, policy in policies.items()}
    logger.info("Parameters in millions: %s", {name: round(size, 1) for name, size in sizes.items()})
    return policies


def measure(policy: SmolVLAPolicy, size: int, seconds: float) -> dict[str, Any]:
    """Milliseconds and FLOPs of a step, and on CUDA the peak memory of the policy alone, in GiB."""
    device = next(policy.parameters()).device
    batch = random_batch(size, device)
    parameters = policy.train().get_optim_params()
    optimizer = torch.optim.AdamW(parameters, lr=1e-6)

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16):
            loss, _ = policy(dict(batch))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    step()
    with FlopCounterMode(display=False) as counter:
        step()
    result: dict[str, Any] = {
        "step_ms": timed(step, seconds, device),
        "tflops": counter.get_total_flops() / 1e12,
    }
    if device.type == "cuda":
        others = torch.cuda.memory_allocated() - allocated(policy, optimizer)
        torch.cuda.reset_peak_memory_stats()
        step()
        result["peak_GiB"] = round((torch.cuda.max_memory_allocated() - others) / 2**30, 2)
    return result


def timed(step: Callable[[], None], seconds: float, device: torch.device) -> float:
    """Milliseconds of a step."""
    count, spent = repeat(step, seconds, device)
    return round(1000 * spent / count, 1)


def allocated(policy: SmolVLAPolicy, optimizer: torch.optim.Optimizer) -> int:
    """Bytes of a policy's parameters, buffers and optimizer state."""
    kept = [*policy.parameters(), *policy.buffers()]
    for module in policy.modules():
        if isinstance(module, Frozen):  # whose weights are not the policy's
            kept += module.module.parameters()
    kept += [v for state in optimizer.state.values() for v in state.values() if isinstance(v, torch.Tensor)]
    return sum(each.numel() * each.element_size() for each in kept if each.is_cuda)


def random_batch(size: int, device: torch.device) -> dict[str, torch.Tensor]:
    """A batch as after SmolVLA's processor, with frame pairs of the size of a dataset's images."""
    images = {camera: torch.rand(size, 3, 512, 512, device=device) for camera in CAMERAS}
    pair = torch.randint(0, 256, (size, 2, 3, 512, 512), dtype=torch.uint8, device=device)
    return images | {
        "observation.state": torch.randn(size, STATE_DIM, device=device),
        "observation.language.tokens": torch.randint(0, 20, (size, PROMPT), device=device),
        "observation.language.attention_mask": torch.ones(size, PROMPT, dtype=torch.bool, device=device),
        "action": torch.randn(size, 50, ACTION_DIM, device=device),
        "action_is_pad": torch.zeros(size, 50, dtype=torch.bool, device=device),
        FRAME_PAIR: pair,
        FRAME_PAIR_IS_PAD: torch.zeros(size, 2, dtype=torch.bool, device=device),
    }


if __name__ == "__main__":
    main()
