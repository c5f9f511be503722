"""States and actions of GR00T N1.6 as numbers about 1, joint group by joint group, and back.

A group is normalized by its range (to [-1, 1], clipped), by mean and standard deviation, or, for angles of a state, by
sine and cosine. Actions of a relative group are those minus the state at the moment of prediction, with statistics of
their own, which may differ between the steps of a chunk.

Legend: B batch, T action chunk, S raw state, E encoded state, A action.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Self

import torch
from torch import Tensor

LINEAR, SINE, COSINE = 0, 1, 2


@dataclass(frozen=True)
class JointGroup:
    """A run of dimensions of the state or action that are normalized alike.

    Args:
        name: For messages.
        mode: "range", "mean_std" or, for states, "sin_cos".
        statistics: `min` and `max`, or `mean` and `std`; each (D,), or (T, D) for actions.
        clip: Keep values of a range in [-1, 1].
        relative_to: First dimension of the raw state that the action counts from; None is absolute.
    """

    name: str
    mode: str
    statistics: Mapping[str, Any]
    clip: bool = True
    relative_to: int | None = None

    @property
    def size(self) -> int:
        """Number of dimensions."""
        return self.offset_and_scale()[0].shape[-1]

    def offset_and_scale(self) -> tuple[Tensor, Tensor]:
        """(T or 1, D) each: a raw value is `offset + scale * normalized`; a scale of 0 marks what never changes."""
        low, high = ("mean", "std") if self.mode == "mean_std" else ("min", "max")
        first, second = (torch.as_tensor(self.statistics[name], dtype=torch.float32) for name in (low, high))
        first, second = torch.atleast_2d(first), torch.atleast_2d(second)
        if self.mode == "mean_std":
            constant = second == 0
            return torch.where(constant, 0.0, first), torch.where(constant, 1.0, second)
        constant = torch.isclose(first, second)
        return torch.where(constant, first, (first + second) / 2), torch.where(
            constant, 0.0, (second - first) / 2
        )


@dataclass(frozen=True)
class _Tensors:
    """Saves a dataclass of tensors as a flat dict, and reads it back."""

    def to_dict(self, prefix: str) -> dict[str, Tensor]:
        """The tensors by `<prefix>.<name>`."""
        return {f"{prefix}.{field.name}": getattr(self, field.name).clone() for field in fields(self)}

    @classmethod
    def from_dict(cls, tensors: Mapping[str, Tensor], prefix: str) -> Self:
        """Inverse of `to_dict`."""
        return cls(**{field.name: tensors[f"{prefix}.{field.name}"] for field in fields(cls)})

    def to(self, device: torch.device) -> Self:
        """A copy on a device."""
        return type(self)(**{field.name: getattr(self, field.name).to(device) for field in fields(self)})


@dataclass(frozen=True)
class StateEncoding(_Tensors):
    """How a state is encoded, one entry for each of the E outputs.

    Args:
        index: (E,) int64, dimension of the raw state.
        kind: (E,) int64, one of LINEAR, SINE and COSINE.
        offset: (E,) float32.
        scale: (E,) float32; 0 gives 0.
        clip: (E,) bool.
    """

    index: Tensor
    kind: Tensor
    offset: Tensor
    scale: Tensor
    clip: Tensor

    @classmethod
    def of(cls, groups: Sequence[JointGroup]) -> Self:
        """Builds the encoding of a state that is these groups one after the other."""
        index, kind, offset, scale, clip = [], [], [], [], []
        start = 0
        for group in groups:
            dims = list(range(start, start + group.size))
            start += group.size
            for one in (SINE, COSINE) if group.mode == "sin_cos" else (LINEAR,):
                group_offset, group_scale = group.offset_and_scale()
                index += dims
                kind += [one] * len(dims)
                offset.append(group_offset[0])
                scale.append(group_scale[0])
                clip += [group.mode == "range" and group.clip] * len(dims)
        return cls(
            torch.tensor(index), torch.tensor(kind), torch.cat(offset), torch.cat(scale), torch.tensor(clip)
        )

    @property
    def raw_size(self) -> int:
        """S."""
        return int(self.index.max()) + 1

    def encode(self, state: Tensor) -> Tensor:
        """(B, S) raw -> (B, E)."""
        raw = state.float()[:, self.index]
        linear = _normalize(raw, self.offset, self.scale, self.clip)
        angles = torch.where(self.kind == SINE, raw.sin(), raw.cos())
        return torch.where(self.kind == LINEAR, linear, angles)


@dataclass(frozen=True)
class ActionEncoding(_Tensors):
    """How actions are encoded, one entry for each of the A dimensions.

    Args:
        offset: (T or 1, A) float32.
        scale: (T or 1, A) float32; 0 marks an action that never changes.
        clip: (A,) bool: values to be encoded stay in [-1, 1].
        bound: (A,) bool: decoded values stay within the range of the statistics.
        reference: (A,) int64, dimension of the raw state that the action counts from; -1 is absolute.
    """

    offset: Tensor
    scale: Tensor
    clip: Tensor
    bound: Tensor
    reference: Tensor

    @classmethod
    def of(cls, groups: Sequence[JointGroup], horizon: int) -> Self:
        """Builds the encoding of actions that are these groups one after the other.

        Args:
            groups: The groups.
            horizon: T, for statistics that differ between steps.
        """
        offset: list[Tensor] = []
        scale: list[Tensor] = []
        clip: list[bool] = []
        bound: list[bool] = []
        reference: list[int] = []
        for group in groups:
            for parts, values in zip((offset, scale), group.offset_and_scale(), strict=True):
                parts.append(_to_horizon(group.name, values, horizon))
            is_range = group.mode == "range"
            clip += [is_range and group.clip] * group.size
            bound += [is_range] * group.size
            first = group.relative_to
            reference += [-1] * group.size if first is None else range(first, first + group.size)
        return cls(
            torch.cat(offset, dim=1),
            torch.cat(scale, dim=1),
            torch.tensor(clip),
            torch.tensor(bound),
            torch.tensor(reference),
        )

    @property
    def size(self) -> int:
        """A."""
        return len(self.reference)

    def references(self, state: Tensor | None, batch_size: int) -> Tensor:
        """(B, 1, A): what relative actions count from, 0 for absolute ones.

        Args:
            state: (B, S) raw; may be None if no action is relative.
            batch_size: B.
        """
        relative = self.reference >= 0
        if state is None or not relative.any():
            return torch.zeros(batch_size, 1, self.size, device=self.offset.device)
        values = state.float()[:, self.reference.clamp(min=0)]
        return torch.where(relative, values, 0.0)[:, None]

    def encode(self, actions: Tensor, references: Tensor) -> Tensor:
        """Raw actions (B, T', A) with T' <= T -> normalized ones, of the same shape."""
        steps = actions.shape[1]
        return _normalize(actions.float() - references, self.offset[:steps], self.scale[:steps], self.clip)

    def decoder(self, references: Tensor) -> tuple[Tensor, Tensor]:
        """Offset and scale (B, T, A) each, with which `decode_actions` turns normalized actions into raw ones."""
        offset = self.offset + references
        return offset, self.scale.expand_as(offset)


def decode_actions(normalized: Tensor, offset: Tensor, scale: Tensor, bound: Tensor) -> Tensor:
    """Turns normalized actions into raw ones.

    Args:
        normalized: (B, T', A), T' <= T.
        offset: (B, T, A), as `ActionEncoding.decoder` gives it.
        scale: (B, T, A).
        bound: (A,) bool, see `ActionEncoding`.
    """
    steps = normalized.shape[1]
    bounded = torch.where(bound, normalized.clamp(-1, 1), normalized)
    return offset[:, :steps] + scale[:, :steps] * bounded


def relative_statistics(
    states: Tensor, actions: Tensor, episodes: Tensor, horizon: int
) -> dict[str, list[list[float]]]:
    """Statistics of actions minus the state at the moment of prediction, for every step of a chunk.

    Args:
        states: (N, A) of all frames, in order: the dimensions that the actions count from.
        actions: (N, A).
        episodes: (N,) int64, index of each frame's episode.
        horizon: T.

    Returns:
        `min`, `max`, `mean`, `std`, `q01` and `q99`, each T x A. Steps beyond the longest episode repeat the last one.
    """
    names = ("min", "max", "mean", "std", "q01", "q99")
    found: dict[str, list[list[float]]] = {name: [] for name in names}
    for step in range(horizon):
        ahead = actions[step:] - states[: len(states) - step]
        ahead = ahead[episodes[step:] == episodes[: len(episodes) - step]].double()
        if len(ahead) == 0:
            for rows in found.values():
                rows.append(rows[-1])
            continue
        quantiles = torch.quantile(ahead, torch.tensor([0.01, 0.99], dtype=torch.float64), dim=0)
        values = (ahead.amin(0), ahead.amax(0), ahead.mean(0), ahead.std(0, correction=0), *quantiles)
        for name, value in zip(names, values, strict=True):
            found[name].append(value.tolist())
    return found


def _normalize(values: Tensor, offset: Tensor, scale: Tensor, clip: Tensor) -> Tensor:
    constant = scale == 0
    normalized = torch.where(constant, 0.0, (values - offset) / torch.where(constant, 1.0, scale))
    return torch.where(clip, normalized.clamp(-1, 1), normalized)


def _to_horizon(name: str, values: Tensor, horizon: int) -> Tensor:
    """(horizon, D): one row for all steps, or the rows of the first steps."""
    if len(values) == 1:
        return values.expand(horizon, -1)
    if len(values) < horizon:
        raise ValueError(
            f"`chunk_size` is {horizon}; it must be at most {len(values)}, the steps that the statistics of the action "
            f"{name!r} have. Pass --policy.chunk_size={len(values)}."
        )
    return values[:horizon]
