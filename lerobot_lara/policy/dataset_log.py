"""Means per dataset of a mixture, for the log."""

from collections.abc import Sequence

import torch
from torch import Tensor


class DatasetMeans:
    """Averages per-sample numbers by dataset; with the same keys at every step.

    LeRobot averages over steps and processes by key, so that a dataset without a sample in the batch repeats its last
    mean.

    Args:
        names: Datasets, by their index in the batch.
        labeled: Whether each of them has actions.
    """

    def __init__(self, names: Sequence[str], labeled: Sequence[bool]) -> None:
        self.names = list(names)
        self.labeled = list(labeled)
        self._last: dict[str, float] = {}

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
    ) -> dict[str, float]:
        """Args:
            label: Name of the number.
            values: (B,).
            valid: (B,) bool, samples that count; None is all.
            dataset_index: (B,) int64; None, without a mixture, gives no means.
            of_actions: The number exists for datasets with actions only.
            remember: Repeat these means later; False for held-out batches.

        Returns:
            `<label>/<dataset>` for every dataset.
        """
        if dataset_index is None or not self.names:
            return {}
        weights = torch.ones_like(values) if valid is None else valid.to(values.dtype)
        index = dataset_index.reshape(-1)
        sums = values.new_zeros(2, len(self.names))
        sums[0].index_add_(0, index, values * weights)
        sums[1].index_add_(0, index, weights)
        totals, counts = sums.tolist()
        everything = sum(totals) / max(sum(counts), 1.0)
        means = {}
        for name, labeled, total, count in zip(self.names, self.labeled, totals, counts, strict=True):
            if of_actions and not labeled:
                continue
            key = f"{label}/{name}"
            means[key] = total / count if count > 0 else self._last.get(key, everything)
            if remember and count > 0:
                self._last[key] = means[key]
        return means
