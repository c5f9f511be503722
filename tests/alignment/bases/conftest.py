"""Every policy that can be aligned, tiny, with a latent action model (LAM) and a dataset for it."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from lerobot.configs import PreTrainedConfig
from lerobot.datasets.lerobot_dataset import LeRobotDataset
from lerobot.policies.factory import get_policy_class, make_pre_post_processors
from support.helpers import TrainRun, run_train
from support.policies import TINY_LAM
from support.tiny_bases import CAMERA, NAMES, SIZE, base_options, tiny_gemma
from support.tiny_datasets import REPO_ID, make_tiny_dataset

from lerobot_lara.batch.keys import FRAME_PAIR, FRAME_PAIR_IS_PAD
from lerobot_lara.lam.latent_action_model import LatentActionModel

FEATURES = ("input_features", "output_features")


@dataclass
class TinyBase:
    """A base and what aligns it.

    Args:
        name: Type of the base.
        options: Of its configuration.
        lam: Folder of a LAM.
        data: Folder of a dataset.
    """

    name: str
    options: dict[str, Any]
    lam: str
    data: Path

    @property
    def alignment(self) -> dict[str, Any]:
        """Options that the aligned policy has beside the base's."""
        return {"lam_path": self.lam, "frame_gap": 4}

    def config(self, aligned: bool = True, **changes: Any) -> Any:
        """Configuration of the aligned policy, or of the plain base."""
        options = self.options | (self.alignment if aligned else {}) | changes
        return PreTrainedConfig.get_choice_class(f"lara_{self.name}" if aligned else self.name)(**options)

    def policy(self, aligned: bool = True, **changes: Any) -> Any:
        """A new policy with random weights."""
        config = self.config(aligned, **changes)
        torch.manual_seed(0)
        return get_policy_class(config.type)(config)

    def data_and_preprocessor(self) -> tuple[LeRobotDataset, Any]:
        """The dataset with the windows of the base, and what prepares batches of it for the base."""
        config = self.config(False)
        deltas = config.observation_delta_indices
        steps = {"action": config.action_delta_indices}
        if deltas is not None:
            steps |= dict.fromkeys((CAMERA, "observation.state"), deltas)
        timestamps = {key: [step / 10 for step in value] for key, value in steps.items()}
        dataset = LeRobotDataset(REPO_ID, root=self.data, delta_timestamps=timestamps)
        config._runtime_dataset_meta = dataset.meta
        preprocess, _ = make_pre_post_processors(
            config, dataset_stats=dataset.meta.stats, dataset_meta=dataset.meta
        )
        return dataset, preprocess

    def train(self, output_dir: Path, aligned: bool = True, **flags: Any) -> TrainRun:
        """Trains for 3 steps with the real `lerobot-train`; flags as for `run_train`."""
        options = {k: v for k, v in self.options.items() if k not in FEATURES}
        if hasattr(self.config(False), "optimizer_grad_clip_norm"):
            # Zero gradients of the LAM could change the last bit of an active clip's norm.
            options["optimizer_grad_clip_norm"] = 1e9
        options |= self.alignment if aligned else {}
        named = {f"policy__{k}": list(v) if isinstance(v, tuple) else v for k, v in options.items()}
        kind = f"lara_{self.name}" if aligned else self.name
        return run_train(
            **{"policy__type": kind, "dataset__root": self.data, "output_dir": output_dir, "steps": 3}
            | named
            | flags
        )


@pytest.fixture(scope="session")
def lam_path(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("lam")
    torch.manual_seed(0)
    LatentActionModel.from_config(**TINY_LAM).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def datasets(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """A dataset for each size of image."""
    return {
        size: make_tiny_dataset(
            tmp_path_factory.mktemp("data") / str(size), num_frames=16, size=size, cameras=(CAMERA,)
        )
        for size in (32, 64)
    }


@pytest.fixture(scope="session", params=NAMES)
def tiny_base(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    lam_path: str,
    datasets: dict[int, Path],
) -> Iterator[TinyBase]:
    name = request.param
    with tiny_gemma():
        options = base_options(name, tmp_path_factory.mktemp(name))
        yield TinyBase(name, options, lam_path, datasets[SIZE.get(name, 32)])


@pytest.fixture
def batch(tiny_base: TinyBase) -> dict[str, Any]:
    """A preprocessed batch of three samples with frame pairs; the last sample's actions end early."""
    dataset, preprocess = tiny_base.data_and_preprocessor()
    made = torch.utils.data.default_collate([dataset[row] for row in (2, 5, 13)])
    generator = torch.Generator().manual_seed(1)
    made[FRAME_PAIR] = torch.randint(0, 256, (3, 2, 3, 32, 32), dtype=torch.uint8, generator=generator)
    made[FRAME_PAIR_IS_PAD] = torch.zeros(3, 2, dtype=torch.bool)
    return preprocess(made)
