"""Training steps and chunks of GR00T N1.6 at the released size, with random weights: times and peak memory.

    python benchmarks/groot_n16.py --device=cuda [--batch_sizes=1,8,32] [--seconds=2]

`backbone` reads two images of 224 x 224 pixels and 280 tokens, without gradients; `head` is forward and backward of the
action head alone; `step` is both, with the released choice of trained parameters and without the optimizer; `chunk`
samples 50 actions in four Euler steps. Times are milliseconds under bfloat16 autocast. On a GPU, a step takes at least
17 GiB.
"""

import argparse
import json
import logging
from collections.abc import Callable
from typing import Any

import torch
from step import repeat

from lerobot_lara.groot_n16.configuration_groot_n16 import GrootN16Config
from lerobot_lara.groot_n16.model import GrootN16Model

NUM_TOKENS, NUM_CAMERAS, IMAGE_SIZE, IMAGE_TOKENS = 280, 2, 224, 64
logger = logging.getLogger("groot_n16")


def main() -> None:
    """Logs one line of JSON for each batch size."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--batch_sizes", default="1,8,32")
    parser.add_argument("--seconds", type=float, default=2.0, help="about how long each measurement takes")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s", force=True)
    device = torch.device(args.device)
    config = GrootN16Config(device=args.device)
    with device:
        model = GrootN16Model(config)
    for size in map(int, args.batch_sizes.split(",")):
        with torch.autocast(device.type, torch.bfloat16):
            row = {"batch": size} | measure(model, config, size, args.seconds)
        logger.info(json.dumps(row))


def measure(model: GrootN16Model, config: GrootN16Config, size: int, seconds: float) -> dict[str, Any]:
    """Returns times in milliseconds, peak memory in GiB (CUDA), and the shape of what the tap of block 30 sees."""
    device = torch.device(str(config.device))
    inputs, actions = random_inputs(config, size)
    head = model.action_head
    with torch.no_grad():
        features = model.read(**inputs)

    def read() -> None:
        with torch.no_grad():
            model.read(**inputs)

    def head_step() -> None:
        head(features, actions)["loss"].backward()
        model.zero_grad(set_to_none=True)

    def step() -> None:
        head(model.read(**inputs), actions)["loss"].backward()
        model.zero_grad(set_to_none=True)

    def chunk() -> None:
        with torch.no_grad():
            captured["chunk"] = head.get_action(features, actions)["action_pred"]

    captured: dict[str, Any] = {}
    tapped = head.model.transformer_blocks[29].register_forward_hook(
        lambda module, given, output: captured.update(tap=list(output.shape))
    )
    measured: dict[str, float | None] = {}
    for name, function in (("backbone", read), ("head", head_step), ("step", step), ("chunk", chunk)):
        head.train(name != "chunk")
        measured |= timed(name, function, seconds, device)
    tapped.remove()
    finite = bool(torch.isfinite(captured["chunk"]).all())
    return measured | {"tap": captured["tap"], "chunk": list(captured["chunk"].shape), "finite": finite}


def timed(
    name: str, function: Callable[[], None], seconds: float, device: torch.device
) -> dict[str, float | None]:
    """Milliseconds of a call after two calls of warm-up, and its peak memory."""
    repeat(function, 0, device)
    repeat(function, 0, device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    count, spent = repeat(function, seconds, device)
    peak = torch.cuda.max_memory_allocated() / 2**30 if device.type == "cuda" else None
    return {f"{name}_ms": round(1000 * spent / count, 1), f"{name}_GiB": peak and round(peak, 1)}


def random_inputs(config: GrootN16Config, size: int) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Images and prompts for the backbone; state and actions for the head."""
    device = torch.device(str(config.device))
    ids = torch.full((size, NUM_TOKENS), 100, device=device)
    ids[:, 20 : 20 + NUM_CAMERAS * IMAGE_TOKENS] = config.image_token_id
    images = [torch.rand(size, 3, IMAGE_SIZE, IMAGE_SIZE, device=device) * 2 - 1 for _ in range(NUM_CAMERAS)]
    chunk = (size, config.action_horizon, config.max_action_dim)
    actions = {
        "state": torch.randn(size, 1, config.max_state_dim, device=device),
        "action": torch.randn(chunk, device=device),
        "action_mask": torch.ones(chunk, device=device),
        "embodiment_id": torch.full((size,), 10, device=device),
    }
    mask = torch.ones(size, NUM_TOKENS, dtype=torch.bool, device=device)
    return {"images": images, "input_ids": ids, "attention_mask": mask}, actions


if __name__ == "__main__":
    main()
