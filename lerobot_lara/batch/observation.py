"""A batch of LeRobot's as the policy reads it: checked, padded to the policy's widths, with masks of what is missing.

Legend: B batch, V cameras, T action chunk, A and S padded action and state dimensions, L tokens of an instruction,
P image tokens.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from lerobot_lara.batch import keys
from lerobot_lara.batch.checks import check_images


@dataclass(frozen=True)
class BatchLayout:
    """What a policy expects of every batch.

    Args:
        cameras: Keys of the cameras, in order.
        state_dim: S; 0 for a policy without a state.
        action_dim: A.
        embodiments: Names of the rows of the state and action projections.
        embodiment_id: Row of samples that name no embodiment.
    """

    cameras: tuple[str, ...]
    state_dim: int
    action_dim: int
    embodiments: tuple[str, ...]
    embodiment_id: int


@dataclass(frozen=True)
class Observation:
    """What the policy knows at o_t.

    Attributes:
        images: V tensors (B, 3, H, W), RGB in [0, 1].
        image_valid: (B, V) bool, False where a sample's dataset lacks the camera; None if every sample has all.
        image_tokens: V times the images' tokens (B, P, width) where the batch brings them, else None.
        language_tokens: (B, L) int64, or None.
        language_mask: (B, L) bool, False at padding, or None.
        prompt: Further inputs of a vision-language model, (B, L), by name.
        state: (B, S), normalized and padded with zeros; None for a policy without a state.
        state_valid: (B,) bool, False where a sample's dataset has no state.
        embodiment_id: (B,) int64.
        dataset_index: (B,) int64, entry of the mixture; None without one.
    """

    images: list[Tensor]
    image_valid: Tensor | None
    image_tokens: list[Tensor | None]
    language_tokens: Tensor | None
    language_mask: Tensor | None
    prompt: dict[str, Tensor]
    state: Tensor | None
    state_valid: Tensor
    embodiment_id: Tensor
    dataset_index: Tensor | None

    @classmethod
    def from_batch(
        cls, batch: Mapping[str, Any], layout: BatchLayout, *, check_values: bool = True
    ) -> "Observation":
        """Reads a preprocessed batch whose observations are those of o_t, without a time axis.

        Args:
            batch: Cameras (B, 3, H, W), `observation.state` (B, S' <= S) and what `lerobot_lara.batch.keys` names.
                `<camera>_is_pad` and `observation.state_is_pad`, (B,) or (B, n), are True in their first column where
                a sample's dataset lacks them.
            layout: What the policy expects.
            check_values: Look at the range of images and embodiments, for which the host waits for the device.

        Raises:
            ValueError: A camera or the state is missing, images are not RGB in [0, 1], there are more dimensions than
                the policy has room for, an embodiment has no row, or there is not one instruction for each sample.
        """
        require_cameras(batch, layout.cameras)
        images = [batch[camera] for camera in layout.cameras]
        for camera, image in zip(layout.cameras, images, strict=True):
            check_images(image, camera, values=check_values)
        state = None
        if layout.state_dim:
            if keys.STATE not in batch:
                raise ValueError(
                    f"The batch lacks `{keys.STATE}`, with which this policy was trained. Add it, or train without."
                )
            state = _with_extra_dims(batch, keys.STATE, keys.STATE_EXTRA, layout.state_dim, "state")
        size, device = len(images[0]), images[0].device
        _require_batch_size(batch, layout.cameras, size)
        return cls(
            images=images,
            image_valid=_image_valid(batch, layout.cameras, size, device),
            image_tokens=[batch.get(keys.IMAGE_TOKENS + camera) for camera in layout.cameras],
            language_tokens=batch.get(keys.LANGUAGE_TOKENS),
            language_mask=batch.get(keys.LANGUAGE_MASK),
            prompt={k.removeprefix(keys.PROMPT): v for k, v in batch.items() if k.startswith(keys.PROMPT)},
            state=state,
            state_valid=_present(batch.get(f"{keys.STATE}_is_pad"), size, device),
            embodiment_id=_embodiment_id(batch, layout, size, device, check_values=check_values),
            dataset_index=dataset_index(batch),
        )


@dataclass(frozen=True)
class ActionChunk:
    """The actions that follow o_t.

    Attributes:
        actions: (B, T, A), normalized and padded with zeros.
        step_valid: (B, T) bool, False beyond the episode's end; all False in samples without actions.
        dim_valid: (B or 1, 1, A) bool, False at dimensions that the sample's robot does not have.
    """

    actions: Tensor
    step_valid: Tensor
    dim_valid: Tensor

    @classmethod
    def from_batch(cls, batch: Mapping[str, Any], layout: BatchLayout) -> "ActionChunk":
        """Reads `action` (B, T, A' <= A), `action_is_pad` (B, T) and the keys of a mixture.

        Raises:
            ValueError: There are more dimensions than the policy has room for.
        """
        actions = _with_extra_dims(batch, keys.ACTION, keys.ACTION_EXTRA, layout.action_dim, "action")
        dims = torch.arange(layout.action_dim, device=actions.device)
        dim_valid = (dims < batch[keys.ACTION].shape[-1])[None]  # (1, A)
        if keys.ACTION_DIM_IS_PAD in batch:
            is_pad = batch[keys.ACTION_DIM_IS_PAD].bool()  # (B, A')
            dim_valid = ~F.pad(is_pad, (0, layout.action_dim - is_pad.shape[-1]), value=True)
        return cls(actions, step_valid(batch), dim_valid[:, None])

    @property
    def labeled(self) -> Tensor:
        """(B,) bool, False in samples without actions."""
        return self.step_valid.any(dim=1)

    @property
    def valid(self) -> Tensor:
        """(B, T, A) bool, or with one dimension for all samples alike: the real elements."""
        return self.step_valid[..., None] & self.dim_valid


def require_cameras(batch: Mapping[str, Any], cameras: Iterable[str]) -> None:
    """Makes sure that a batch has the images of some cameras.

    Raises:
        ValueError: Names those that are missing, and those that are there.
    """
    missing = [camera for camera in cameras if camera not in batch]
    if missing:
        found = sorted(key for key in batch if key.startswith("observation.image") and "_is_pad" not in key)
        raise ValueError(
            f"The batch lacks camera {missing} of `input_features`; it has {found}. Rename the dataset's cameras with "
            "--rename_map, or train on its own."
        )


def step_valid(batch: Mapping[str, Any]) -> Tensor:
    """(B, T) bool: the steps of the action chunk that exist."""
    is_pad = batch.get(f"{keys.ACTION}_is_pad")
    if is_pad is None:
        actions = batch[keys.ACTION]
        return torch.ones(actions.shape[:2], dtype=torch.bool, device=actions.device)
    return ~is_pad.bool()


def dataset_index(batch: Mapping[str, Any]) -> Tensor | None:
    """(B,) int64 entry of the mixture that each sample is from; None without a mixture."""
    return batch[keys.DATASET_INDEX].reshape(-1) if keys.DATASET_INDEX in batch else None


def _require_batch_size(batch: Mapping[str, Any], cameras: Iterable[str], size: int) -> None:
    """Makes sure that there is one of everything for each sample."""
    for key in (*cameras, keys.STATE, keys.LANGUAGE_TOKENS):
        if key in batch and len(batch[key]) != size:
            remedy = (
                "Pass `task` as a list with one instruction for each." if key == keys.LANGUAGE_TOKENS else ""
            )
            raise ValueError(
                f"`{key}` has {len(batch[key])} rows; it must have {size}, one for each image. {remedy}".rstrip()
            )


def _with_extra_dims(batch: Mapping[str, Any], key: str, extra_key: str, width: int, name: str) -> Tensor:
    """Appends the dimensions beyond those of the policy's own robot, then pads to the policy's width."""
    values = batch[key]
    if extra_key in batch:
        values = torch.cat([values, batch[extra_key].to(values.dtype)], dim=-1)
    if values.shape[-1] > width:
        raise ValueError(
            f"The batch has {values.shape[-1]} {name} dimensions, but `max_{name}_dim` leaves room for {width}. "
            f"Raise --policy.max_{name}_dim."
        )
    return F.pad(values, (0, width - values.shape[-1]))


def _present(is_pad: Tensor | None, size: int, device: torch.device) -> Tensor:
    """(B,) bool from a flag (B,) or (B, n), of which the first column is that of o_t."""
    if is_pad is None:
        return torch.ones(size, dtype=torch.bool, device=device)
    return ~is_pad.bool().reshape(size, -1)[:, 0]


def _image_valid(
    batch: Mapping[str, Any], cameras: tuple[str, ...], size: int, device: torch.device
) -> Tensor | None:
    flags = [batch.get(f"{camera}_is_pad") for camera in cameras]
    if all(flag is None for flag in flags):
        return None
    return torch.stack([_present(flag, size, device) for flag in flags], dim=1)


def _embodiment_id(
    batch: Mapping[str, Any], layout: BatchLayout, size: int, device: torch.device, *, check_values: bool
) -> Tensor:
    if keys.EMBODIMENT_ID not in batch:
        return torch.full((size,), layout.embodiment_id, device=device)
    embodiment_id = batch[keys.EMBODIMENT_ID].long().reshape(-1)
    if check_values and not set(found := embodiment_id.tolist()) <= set(range(len(layout.embodiments))):
        raise ValueError(
            f"`{keys.EMBODIMENT_ID}` {sorted(set(found))} is outside [0, {len(layout.embodiments)}), the rows of "
            f"`embodiments` {list(layout.embodiments)}. Train with the data's embodiments in `embodiments`."
        )
    return embodiment_id
