"""Three tiny datasets that differ in everything a mixture has to bridge, and files that mix them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from lerobot.configs import PreTrainedConfig
from support.tiny_datasets import make_tiny_dataset

from lerobot_lara import LaraConfig
from lerobot_lara.data.mixture.build import build_mixture
from lerobot_lara.data.mixture.config import load_mixture
from lerobot_lara.data.mixture.dataset import MixtureDataset

ROBOT: dict[str, Any] = {"name": "robot", "repo_id": "local/robot", "root": "robot"}
ARM: dict[str, Any] = {
    "name": "arm",
    "repo_id": "local/arm",
    "root": "arm",
    "embodiment": "arm",
    "cameras": {
        "observation.images.top": "observation.image",
        "observation.images.wrist": "observation.images.wrist",
    },
}
VIDEO: dict[str, Any] = {
    "name": "video",
    "repo_id": "local/video",
    "root": "video",
    "action_free": True,
    "cameras": {"observation.images.cam": "observation.image"},
}
CAMERAS = ["observation.image", "observation.images.wrist"]


@pytest.fixture(scope="session")
def datasets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of `robot` (10 fps, 4 actions), `arm` (5 fps, 7 actions, two cameras) and `video` (20 fps, no actions)."""
    root = tmp_path_factory.mktemp("mixture")
    make_tiny_dataset(root / "robot", num_episodes=4, num_frames=12, task=["push", "pull"])
    make_tiny_dataset(
        root / "arm",
        num_episodes=3,
        num_frames=[10, 8, 3],
        size=(24, 40),
        cameras=("observation.images.top", "observation.images.wrist"),
        action_dim=7,
        state_dim=5,
        fps=5,
        seed=1,
        task="lift",
    )
    make_tiny_dataset(
        root / "video",
        num_episodes=3,
        num_frames=30,
        action=False,
        state=False,
        storage="video",
        fps=20,
        seed=2,
        cameras=("observation.images.cam",),
        task=["a hand", "a cup", "a door"],
    )
    return root


@pytest.fixture
def write_mixture(datasets: Path, tmp_path: Path) -> Callable[..., Path]:
    """Returns `write(*entries, **fields) -> path`: a mixture file; all three datasets if no entry is given."""

    def write(*entries: dict[str, Any], **fields: Any) -> Path:
        content = {"frame_gap_s": 0.4, "cameras": CAMERAS} | fields
        content["entries"] = [
            entry | ({"root": str(datasets / entry["root"])} if entry.get("root") else {})
            for entry in (entries or (ROBOT, ARM, VIDEO))
        ]
        path = tmp_path / "mixture.yaml"
        path.write_text(yaml.safe_dump({key: value for key, value in content.items() if value is not None}))
        return path

    return write


@pytest.fixture
def build(write_mixture: Callable[..., Path]) -> Callable[..., MixtureDataset]:
    """Returns `build(*entries, policy=..., **fields) -> MixtureDataset`, for type `lara` unless told otherwise."""

    def build(
        *entries: dict[str, Any], policy: PreTrainedConfig | None = None, **fields: Any
    ) -> MixtureDataset:
        path = write_mixture(*entries, **fields)
        config = policy or lara_config()
        return build_mixture(load_mixture(path), config, path=path, video_backend="pyav")[0]

    return build


def lara_config(**fields: Any) -> LaraConfig:
    """A `lara` with room for all three datasets; the robot's gap is 0.4 s."""
    defaults: dict[str, Any] = {
        "frame_gap": 4,
        "chunk_size": 8,
        "n_action_steps": 8,
        "max_action_dim": 7,
        "max_state_dim": 5,
        "embodiments": ["default", "arm"],
    }
    return LaraConfig(device="cpu", push_to_hub=False, **(defaults | fields))
