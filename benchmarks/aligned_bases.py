"""What alignment costs each policy of LeRobot that can be aligned: ratios to the plain base.

    python benchmarks/aligned_bases.py [--bases=smolvla,pi05] [--seconds=2]     # tiny, on a CPU: step time and memory
    python benchmarks/aligned_bases.py --released --device=cuda                 # released size: FLOPs of a step

A step is forward, backward and AdamW on a batch of 8. Tiny bases and their batches are those of the tests; base and
aligned policy take turns, and the ratio is that of the medians. Memory is parameters, gradients, optimizer state and
what autograd keeps between forward and backward. At the released size, FLOPs are counted for the bases that can be
built without files of the Hub, and for the latent action model of the paper.
"""

import argparse
import logging
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from lerobot.configs import FeatureType, PolicyFeature, PreTrainedConfig
from lerobot.policies.factory import get_policy_class, make_pre_post_processors
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import lerobot_lara  # noqa: F401  registers the policy types
from lerobot_lara.batch.keys import FRAME_PAIR, FRAME_PAIR_IS_PAD
from lerobot_lara.lam.latent_action_model import LatentActionModel

SIZE = 8
# Names the cache that this script has made for itself.
OWN_CACHE = "ALIGNED_BASES_CACHE"
logger = logging.getLogger("aligned_bases")


def main() -> None:
    """Logs a table in Markdown."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bases", help="comma-separated; all by default")
    parser.add_argument("--seconds", type=float, default=2.0, help="about how long each base takes")
    parser.add_argument("--released", action="store_true")
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s", force=True)
    with tempfile.TemporaryDirectory() as folder:
        if args.released:
            count_released(Path(folder), torch.device(args.device), args.bases)
        elif os.environ.get("HF_HOME") == os.environ.get(OWN_CACHE, ""):
            time_tiny(Path(folder), args.bases, args.seconds)
        else:
            # Tiny bases put files under names of the Hub into its cache, which must not be the user's.
            own = os.environ | {"HF_HOME": folder, OWN_CACHE: folder}
            subprocess.run([sys.executable, *sys.argv], env=own, check=True)


def time_tiny(folder: Path, bases: str | None, seconds: float) -> None:
    """Logs ratios of tiny policies."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    from support.policies import TINY_LAM
    from support.tiny_bases import CAMERA, NAMES, base_options, tiny_gemma
    from support.tiny_bases import SIZE as IMAGE_SIZE
    from support.tiny_datasets import make_tiny_dataset

    torch.manual_seed(0)
    LatentActionModel.from_config(**TINY_LAM).save_pretrained(folder / "lam")
    alignment = {"lam_path": str(folder / "lam"), "frame_gap": 4}
    logger.info("| policy | step, ms | step, aligned / plain | memory, aligned / plain |\n|---|---|---|---|")
    for name in bases.split(",") if bases else NAMES:
        size = IMAGE_SIZE.get(name, 32)
        root = folder / f"data{size}"
        if not root.exists():
            make_tiny_dataset(root, num_frames=16, size=size, cameras=(CAMERA,))
        with tiny_gemma():
            options = base_options(name, folder / name)
            policies = [
                make_policy(kind, options | added)
                for kind, added in ((name, {}), (f"lara_{name}", alignment))
            ]
            batch = tiny_batch(policies[0].config, root, CAMERA)
            plain, aligned = compare(policies, batch, seconds)
        cells = (plain["ms"], aligned["ms"] / plain["ms"], aligned["bytes"] / plain["bytes"])
        logger.info("| `lara_%s` | %.1f | %.2f | %.2f |", name, *cells)


def make_policy(kind: str, options: dict[str, Any]) -> Any:
    """A policy with random weights."""
    torch.manual_seed(0)
    return get_policy_class(kind)(PreTrainedConfig.get_choice_class(kind)(**options)).train()


def tiny_batch(config: Any, root: Path, camera: str) -> dict[str, Any]:
    """A preprocessed batch of a tiny dataset, with frame pairs."""
    from lerobot.datasets.lerobot_dataset import LeRobotDataset
    from support.tiny_datasets import REPO_ID

    deltas = {"action": config.action_delta_indices}
    if config.observation_delta_indices is not None:
        deltas |= dict.fromkeys((camera, "observation.state"), config.observation_delta_indices)
    timestamps = {key: [step / 10 for step in steps] for key, steps in deltas.items()}
    dataset = LeRobotDataset(REPO_ID, root=root, delta_timestamps=timestamps)
    batch = torch.utils.data.default_collate([dataset[row] for row in range(SIZE)])
    batch[FRAME_PAIR] = torch.randint(0, 256, (SIZE, 2, 3, 32, 32), dtype=torch.uint8)
    batch[FRAME_PAIR_IS_PAD] = torch.zeros(SIZE, 2, dtype=torch.bool)
    config._runtime_dataset_meta = dataset.meta
    preprocess, _ = make_pre_post_processors(
        config, dataset_stats=dataset.meta.stats, dataset_meta=dataset.meta
    )
    return preprocess(batch)


def compare(policies: list[Any], batch: dict[str, Any], seconds: float) -> list[dict[str, float]]:
    """Median milliseconds of a step, and its bytes, of policies that take turns."""
    optimizers = [torch.optim.AdamW(policy.parameters(), lr=1e-5) for policy in policies]
    plain = {key: value for key, value in batch.items() if not key.startswith(FRAME_PAIR)}
    batches = [plain, batch]
    results = [{"bytes": bytes_of_step(*each)} for each in zip(policies, optimizers, batches, strict=True)]
    spent: list[list[float]] = [[], []]
    start = time.perf_counter()
    while time.perf_counter() - start < seconds or len(spent[0]) < 5:
        for times, policy, optimizer, given in zip(spent, policies, optimizers, batches, strict=True):
            before = time.perf_counter()
            step(policy, optimizer, given)
            times.append(1000 * (time.perf_counter() - before))
    return [result | {"ms": statistics.median(times)} for result, times in zip(results, spent, strict=True)]


def step(policy: Any, optimizer: torch.optim.Optimizer, batch: dict[str, Any]) -> None:
    """One step of training."""
    policy(dict(batch))[0].backward()
    optimizer.step()
    optimizer.zero_grad()


def bytes_of_step(policy: Any, optimizer: torch.optim.Optimizer, batch: dict[str, Any]) -> float:
    """Parameters, gradients, optimizer state, and what autograd keeps; each storage counts once."""
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss, _ = policy(dict(batch))
    own = {p.untyped_storage().data_ptr() for p in policy.parameters()}
    activations = sum(size for pointer, size in kept.items() if pointer not in own)
    loss.backward()
    parameters = sum(p.nbytes + (0 if p.grad is None else p.grad.nbytes) for p in policy.parameters())
    optimizer.step()
    state = sum(
        v.nbytes for entry in optimizer.state.values() for v in entry.values() if isinstance(v, Tensor)
    )
    optimizer.zero_grad()
    return activations + parameters + state


def count_released(folder: Path, device: torch.device, bases: str | None) -> None:
    """Logs FLOPs of a step of bases at their released size, and of the paper's latent action model."""
    from aligned_smolvla import FRAME_GAP, PAPER_LAM
    from reference_models import write_vit_mae_large

    settings = PAPER_LAM | {"frame_encoder": write_vit_mae_large(folder / "mae"), "frame_gap": FRAME_GAP}
    learned, frozen = count_lam(LatentActionModel.from_config(**settings).to(device))
    logger.info("LAM of the paper, TFLOPs per sample: %.2f trained, %.2f frozen", learned, frozen)
    logger.info(
        "| base | parameters, M | TFLOPs per sample | aligned / plain | with a frozen LAM |\n|---|---|---|---|---|"
    )
    for name in bases.split(",") if bases else RELEASED:
        policy, batch = RELEASED[name](folder, device)
        total = sum(p.numel() for p in policy.parameters()) / 1e6
        with torch.autocast(device.type, torch.bfloat16):
            own = count(lambda policy=policy, batch=batch: policy.train()(batch)[0].backward())
        logger.info(
            "| %s | %.0f | %.2f | %.2f | %.2f |", name, total, own, 1 + learned / own, 1 + frozen / own
        )
        del policy, batch
        torch.cuda.empty_cache()


def count_lam(lam: LatentActionModel) -> tuple[float, float]:
    """TFLOPs per sample of a model that learns, and of one that only gives the target."""
    frames = torch.rand(SIZE, 2, 3, 224, 224, device=next(lam.parameters()).device)
    learned = count(lambda: lam(frames).loss.backward())
    with torch.no_grad():
        return learned, count(lambda: lam.encode(frames))


def count(function: Any) -> float:
    """TFLOPs per sample."""
    # The counter does not know attention with fewer keys than queries, unless it is spelled out.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        function()
    return counter.get_total_flops() / SIZE / 1e12


def _features(cameras: int, size: int) -> dict[str, Any]:
    images = {
        f"observation.images.{i}": PolicyFeature(FeatureType.VISUAL, (3, size, size)) for i in range(cameras)
    }
    state = {"observation.state": PolicyFeature(FeatureType.STATE, (6,))}
    return {
        "input_features": images | state,
        "output_features": {"action": PolicyFeature(FeatureType.ACTION, (6,))},
        "push_to_hub": False,
    }


def _batch(config: Any, device: torch.device, tokens: int, axis: tuple[int, ...] = ()) -> dict[str, Tensor]:
    size = (SIZE, *axis)
    images = {key: torch.rand(*size, *f.shape, device=device) for key, f in config.image_features.items()}
    steps = len(config.action_delta_indices)
    return images | {
        "observation.state": torch.randn(*size, 6, device=device),
        "observation.language.tokens": torch.randint(4, 20, (SIZE, tokens), device=device),
        "observation.language.attention_mask": torch.ones(SIZE, tokens, dtype=torch.bool, device=device),
        "action": torch.randn(SIZE, steps, 6, device=device),
        "action_is_pad": torch.zeros(SIZE, steps, dtype=torch.bool, device=device),
    }


def _pi05(folder: Path, device: torch.device) -> tuple[Any, dict[str, Tensor]]:
    policy = make_policy("pi05", _features(2, 224) | {"dtype": "bfloat16", "device": str(device)}).to(device)
    return policy, _batch(policy.config, device, 200)


def _multi_task_dit(folder: Path, device: torch.device) -> tuple[Any, dict[str, Tensor]]:
    import transformers as tf

    clip = folder / "clip-vit-base-patch16"
    tf.CLIPModel(
        tf.CLIPConfig(
            vision_config={"patch_size": 16, "image_size": 224}, text_config={"projection_dim": 512}
        )
    ).save_pretrained(clip)
    named = {"vision_encoder_name": str(clip), "text_encoder_name": str(clip), "objective": "flow_matching"}
    policy = make_policy("multi_task_dit", _features(2, 224) | named | {"device": str(device)}).to(device)
    return policy, _batch(policy.config, device, 77, (policy.config.n_obs_steps,))


def _groot_n16(folder: Path, device: torch.device) -> tuple[Any, dict[str, Tensor]]:
    from groot_n16 import random_inputs

    from lerobot_lara.groot_n16.configuration_groot_n16 import GrootN16Config
    from lerobot_lara.groot_n16.model import GrootN16Model

    class Step(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = GrootN16Model(config)

        def forward(self, inputs: Any) -> Any:
            seen, actions = inputs
            return (self.model.action_head(self.model.read(**seen), actions)["loss"],)

    config = GrootN16Config(device=str(device))
    with device:
        policy = Step()
    return policy, random_inputs(config, SIZE)  # type: ignore[return-value]


RELEASED = {"groot_n16": _groot_n16, "pi05": _pi05, "multi_task_dit": _multi_task_dit}


if __name__ == "__main__":
    main()
