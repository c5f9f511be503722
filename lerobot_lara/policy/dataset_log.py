"""Means by dataset of a mixture, for the log."""

from collections.abc import Sequence

import torch
from torch import Tensor


class DatasetMeans:
    """Averages numbers of samples by dataset, with the same keys at every step.

    LeRobot averages over steps and processes by key, so a dataset without a sample in the batch repeats its last mean.
    Everything stays on the device.

    Args:
        names: Names of the datasets, by their index in the batch.
        labeled: Whether each of them has actions.
    """

    def __init__(self, names: Sequence[str], labeled: Sequence[bool]) -> None:
        self.names = list(names)
        self.labeled = list(labeled)
        self._last: dict[str, Tensor] = {}  # (N,) means by label, NaN where none is known yet

    @torch.no_grad()
    def __call__(
        self,
        label: str,
        values: Tensor,
        valid: Tensor | None,
        dataset_index: Tensor | None,
        *,
        of_actions: bool = False,
        remember: bool = True,
    ) -> dict[str, Tensor]:
        """Averages one number.

        Args:
            label: Name of the number.
            values: (B,).
            valid: (B,) bool, samples that count; None is all.
            dataset_index: (B,) int64; None, without a mixture, gives no means.
            of_actions: The number exists only for datasets with actions.
            remember: Repeat these means later; False for held-out batches.

        Returns:
            Scalars `<label>/<dataset>` for every dataset.
        """
        if dataset_index is None or not self.names:
            return {}
        weights = torch.ones_like(values) if valid is None else valid.to(values.dtype)
        index = dataset_index.reshape(-1)
        sums = values.new_zeros(2, len(self.names))
        sums[0].index_add_(0, index, values * weights)
        sums[1].index_add_(0, index, weights)
        totals, counts = sums  # (N,) each
        last = self._last.get(label, torch.full_like(totals, float("nan")))
        known = torch.where(counts > 0, totals / counts.clamp(min=1), last)
        if remember:
            self._last[label] = known
        means = torch.where(known.isnan(), totals.sum() / counts.sum().clamp(min=1), known)
        return {
            f"{label}/{name}": mean
            for name, labeled, mean in zip(self.names, self.labeled, means.unbind(), strict=True)
            if labeled or not of_actions
        }
