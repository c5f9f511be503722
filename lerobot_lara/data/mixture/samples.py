"""One dataset's frames as training samples of the policy.

Legend: V frames of the observation window, T action chunk, S state dimensions and A action dimensions of the reference
dataset.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from lerobot.utils.constants import ACTION, OBS_STATE
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as transforms

from lerobot_lara.batch.keys import (
    ACTION_DIM_IS_PAD,
    ACTION_EXTRA,
    DATASET_INDEX,
    EMBODIMENT_ID,
    FRAME_PAIR,
    FRAME_PAIR_IS_PAD,
    STATE_EXTRA,
)
from lerobot_lara.data.mixture.config import VectorMap
from lerobot_lara.data.mixture.normalization import UnitConversion
from lerobot_lara.data.mixture.reader import ColumnReader
from lerobot_lara.data.mixture.sources import Source


@dataclass(frozen=True)
class SampleLayout:
    """What the samples of all datasets have in common, so that they fit into one batch.

    Args:
        image_sizes: (height, width) in pixels of each of the policy's cameras.
        action_deltas: Control steps of the action chunk; None without actions.
        state_dim: S; 0 without a state.
        action_dim: A; 0 without actions.
        max_state_dim: Largest state dimension of any dataset, at least S.
        max_action_dim: Largest action dimension of any dataset, at least A.
        state_fill: (S,) state of a sample without one, in the reference dataset's units.
        action_fill: (A,) action of an action-free sample, in the same units.
        flag_cameras: Mark missing cameras even where observations have no time axis.
        flag_state: Mark missing states even where observations have no time axis.
    """

    image_sizes: dict[str, tuple[int, int]]
    action_deltas: tuple[int, ...] | None
    state_dim: int
    action_dim: int
    max_state_dim: int
    max_action_dim: int
    state_fill: np.ndarray
    action_fill: np.ndarray
    flag_cameras: bool
    flag_state: bool

    @property
    def cameras(self) -> tuple[str, ...]:
        """The policy's cameras."""
        return tuple(self.image_sizes)


class EntrySamples:
    """The frames of one dataset, cut into samples.

    Args:
        source: The opened dataset.
        reader: Reads its columns.
        layout: What all samples have in common.
        index: Number of the entry in the mixture.
        embodiment_id: Row of the embodiment in the policy's state and action projections.
        observation_deltas: Frames of the observation window, [0, K] in this dataset's own frames; None for the
            current frame without a time axis.
        state_units: Conversion of states to the reference dataset's units; None without a state.
        action_units: Conversion of actions to the reference dataset's units; None for an action-free entry.
        action_dim: Action dimensions of the dataset's robot, even if the entry is action-free.
        frame_pair: Camera of the policy and K in this dataset's own frames, for a pair beside the observations; None
            for no such pair.
        labels: Adds the latent labels of a frame; None for a policy without.
        label_gap: K of these labels, in frames.
        needs_pair: Leave out frames whose window reaches beyond the episode, as nothing learns from them.
        image_transforms: LeRobot's augmentation of (V, 3, H, W) or (3, H, W) uint8 images.
    """

    def __init__(
        self,
        *,
        source: Source,
        reader: ColumnReader,
        layout: SampleLayout,
        index: int,
        embodiment_id: int,
        observation_deltas: Sequence[int] | None,
        state_units: UnitConversion | None,
        action_units: UnitConversion | None,
        action_dim: int,
        frame_pair: tuple[str, int] | None,
        labels: Callable[[int, int], dict[str, Tensor]] | None,
        label_gap: int,
        needs_pair: bool,
        image_transforms: Callable[[Tensor], Tensor] | None,
    ) -> None:
        self.source = source
        self.reader = reader
        self.layout = layout
        self.index = index
        self.embodiment_id = embodiment_id
        self.observation_deltas = None if observation_deltas is None else tuple(observation_deltas)
        self.state_units = state_units
        self.action_units = action_units
        self.action_dim = action_dim
        self.image_transforms = image_transforms
        self.frame_pair = frame_pair
        self.labels = labels
        last = max(self.observation_deltas or (0,)) if frame_pair is None else frame_pair[1]
        beyond = max(last, label_gap) if needs_pair else 0
        self._usable_ends = np.cumsum(reader.num_pairs(beyond))

    def __len__(self) -> int:
        """Number of usable frames."""
        return int(self._usable_ends[-1]) if len(self._usable_ends) else 0

    @property
    def labeled(self) -> bool:
        """Whether the samples have actions."""
        return self.action_units is not None

    def locate(self, frame: int) -> tuple[int, int]:
        """Finds a usable frame.

        Args:
            frame: Number of the usable frame, in [0, len(self)).

        Returns:
            Position of its episode among the opened ones, and its row in the table.
        """
        position = int(np.searchsorted(self._usable_ends, frame, side="right"))
        before = int(self._usable_ends[position - 1]) if position else 0
        return position, int(self.reader.starts[position]) + frame - before

    def __getitem__(self, frame: int) -> dict[str, Any]:
        """The sample of a usable frame, with the same keys and shapes for every dataset of a mixture."""
        position, row = self.locate(frame)
        rows, clamped = self.reader.window(position, row, self.observation_deltas or (0,))
        is_pad = torch.from_numpy(clamped)
        pair, crosses = self.reader.window(position, row, (0, self.frame_pair[1] if self.frame_pair else 0))
        sample = self._images(self.reader.episodes[position], rows, is_pad, pair, torch.from_numpy(crosses))
        if self.layout.action_deltas is not None:
            sample |= self._state(rows, is_pad) | self._actions(position, row)
        if self.labels is not None:
            remaining = int(self.reader.starts[position] + self.reader.lengths[position]) - row
            sample |= self.labels(self.reader.index(position, row), remaining)
        return sample | {
            EMBODIMENT_ID: torch.tensor(self.embodiment_id),
            DATASET_INDEX: torch.tensor(self.index),
            "task": self.instruction(row),
            "timestamp": torch.tensor(float(self.reader.numbers("timestamp", [row])[0, 0])),
        }

    def instructions(self) -> list[str]:
        """All instructions of the dataset, each once."""
        config = self.source.config
        if config.instruction is not None:
            return [config.instruction]
        if config.language_key != "task":
            return self.reader.distinct_texts(config.language_key)
        return self.reader.tasks()

    def instruction(self, row: int) -> str:
        """The instruction of a row of the table."""
        config = self.source.config
        if config.instruction is not None:
            return config.instruction
        return (
            self.reader.task(row)
            if config.language_key == "task"
            else self.reader.text(config.language_key, row)
        )

    def _images(
        self, episode: int, rows: list[int], is_pad: Tensor, pair: list[int], crosses: Tensor
    ) -> dict[str, Any]:
        """Images of the policy's cameras at the rows of the window, with flags for padded and missing ones.

        Beside them the rows of the frame pair, where the policy wants it apart: decoded and augmented with the others.
        """
        sample: dict[str, Any] = {}
        timed = self.observation_deltas is not None
        for camera, size in self.layout.image_sizes.items():
            key = self.source.cameras.get(camera)
            with_pair = self.frame_pair is not None and camera == self.frame_pair[0]
            wanted = [*rows, *pair] if with_pair else rows
            if key is None:
                images = torch.zeros(len(wanted), 3, *size, dtype=torch.uint8)
            else:
                images = fit_image(self.reader.images(key, episode, wanted), size)
            images = images if timed or with_pair else images[0]
            if key is not None and self.image_transforms is not None:
                images = self.image_transforms(images)
            if with_pair:
                sample[FRAME_PAIR], sample[FRAME_PAIR_IS_PAD] = images[-2:], crosses | (key is None)
                images = images[:-2] if timed else images[0]
            sample[camera] = images
            if timed or self.layout.flag_cameras:
                sample[f"{camera}_is_pad"] = is_pad | (key is None)
        return sample

    def _state(self, rows: list[int], is_pad: Tensor) -> dict[str, Any]:
        """State at the rows of the window in the reference dataset's units, with its extra dimensions."""
        layout = self.layout
        if layout.max_state_dim == 0:
            return {}
        state = np.tile(layout.state_fill, (len(rows), 1)).astype(np.float32)
        extra = np.zeros((len(rows), layout.max_state_dim - layout.state_dim), dtype=np.float32)
        if self.state_units is not None and self.source.state is not None:
            state, own_extra = self.state_units(self.vectors(self.source.state, rows))
            extra[:, : own_extra.shape[-1]] = own_extra
        sample: dict[str, Any] = {}
        if layout.state_dim:
            timed = self.observation_deltas is not None
            sample[OBS_STATE] = torch.from_numpy(state if timed else state[0])
            if timed or layout.flag_state:
                sample[f"{OBS_STATE}_is_pad"] = is_pad | (self.state_units is None)
        if extra.shape[-1]:
            sample[STATE_EXTRA] = torch.from_numpy(extra[0])
        return sample

    def _actions(self, position: int, row: int) -> dict[str, Any]:
        """Action chunk from a row on in the reference dataset's units, with its extra dimensions and masks."""
        layout = self.layout
        assert layout.action_deltas is not None
        steps = len(layout.action_deltas)
        actions = np.tile(layout.action_fill, (steps, 1)).astype(np.float32)
        extra = np.zeros((steps, layout.max_action_dim - layout.action_dim), dtype=np.float32)
        is_pad = torch.ones(steps, dtype=torch.bool)
        if self.action_units is not None and self.source.action is not None:
            rows, clamped = self.reader.window(position, row, layout.action_deltas)
            is_pad = torch.from_numpy(clamped)
            actions, own_extra = self.action_units(self.vectors(self.source.action, rows))
            extra[:, : own_extra.shape[-1]] = own_extra
        sample = {
            ACTION: torch.from_numpy(actions),
            f"{ACTION}_is_pad": is_pad,
            ACTION_DIM_IS_PAD: torch.arange(layout.max_action_dim) >= self.action_dim,
        }
        if extra.shape[-1]:
            sample[ACTION_EXTRA] = torch.from_numpy(extra)
        return sample

    def vectors(self, column: VectorMap, rows: Sequence[int]) -> np.ndarray:
        """Reads states or actions, mirrored and picked as the entry says.

        Args:
            column: Column, dimensions and mirrored dimensions; it must have a key.
            rows: n rows of one episode.

        Returns:
            (n, D) float64, in the dataset's own units.
        """
        assert column.key is not None
        values = self.reader.numbers(column.key, rows).astype(np.float64)
        if column.invert:
            stats = self.source.meta.stats[column.key]
            both = np.asarray(stats["min"], dtype=np.float64) + np.asarray(stats["max"], dtype=np.float64)
            values[:, column.invert] = both.reshape(-1)[column.invert] - values[:, column.invert]
        return values if column.dims is None else values[:, column.dims]


def fit_image(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Crops images about the center to the aspect ratio of `size`, then resizes them.

    Args:
        images: (V, 3, H, W) uint8.
        size: Height and width in pixels.

    Returns:
        (V, 3, *size) uint8; the input itself if it already has that size.
    """
    height, width = images.shape[-2:]
    if (height, width) == size:
        return images
    ratio = size[1] / size[0]
    crop = (min(height, max(1, round(width / ratio))), min(width, max(1, round(height * ratio))))
    cropped = transforms.center_crop(images, list(crop))
    return transforms.resize(cropped, list(size), interpolation=InterpolationMode.BILINEAR, antialias=True)
