"""Policy servers in this process, and observations for them."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import numpy as np
import torch
from anyio.from_thread import start_blocking_portal
from lerobot.policies.factory import make_pre_post_processors
from support.policies import CAMERA, make_policy

from lerobot_lara.serving.address import bind
from lerobot_lara.serving.connections import Limits, serve_clients

STATS = {
    "observation.state": {"mean": 0.1, "std": 2.0, "min": -1.0, "max": 1.0},
    "action": {"mean": -0.3, "std": 0.5, "min": -2.0, "max": 3.0},
}


def save_checkpoint(folder: Path, *, cameras: tuple[str, ...] = (CAMERA,), **options: Any) -> str:
    """Writes a tiny `lara_dit` policy with processors that change states and actions."""
    policy = make_policy(cameras, **options)
    features = {**policy.config.input_features, **policy.config.output_features}
    stats = {
        name: {
            key: torch.full(features[name].shape, value, dtype=torch.float32) for key, value in values.items()
        }
        for name, values in STATS.items()
        if name in features
    }
    policy.save_pretrained(folder)
    for pipeline in make_pre_post_processors(policy.config, dataset_stats=stats):
        pipeline.save_pretrained(folder)
    return str(folder)


@contextmanager
def running(server: Any, **limits: Any) -> Iterator[str]:
    """Serves on a free port until the block ends; yields the address of the websocket."""
    with bind("127.0.0.1", 0) as bound, start_blocking_portal() as portal:
        future, port = portal.start_task(partial(serve_clients, server, bound, Limits(**limits)))
        try:
            yield f"ws://127.0.0.1:{port}"
        finally:
            future.cancel()


def observation(
    index: int = 0, *, size: int = 32, state: int = 3, camera: str = "image", task: str = "go"
) -> dict[str, Any]:
    """An observation as a benchmark of vla-eval sends it, another one for each index."""
    generator = np.random.default_rng(index)
    return {
        "images": {camera: generator.integers(0, 256, (size, size, 3), dtype=np.uint8)},
        "states": generator.normal(size=state).astype(np.float32),
        "task_description": task,
    }


def run_client(play: Callable[..., Any], *arguments: Any) -> Any:
    """Runs an asynchronous client to its end."""

    async def limited() -> Any:
        with anyio.fail_after(60):
            return await play(*arguments)

    return anyio.run(limited)
