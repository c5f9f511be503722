"""The latent labels of a mixture's entries, opened and checked for one policy."""

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lerobot_lara.batch.keys import (
    LATENT_ACTION,
    LATENT_ACTION_IS_PAD,
    LATENT_CODES,
    LATENT_CODES_IS_PAD,
    LATENT_SHIFT,
)
from lerobot_lara.batch.label_request import LabelRequest
from lerobot_lara.data.latent_labels.join import LabelJoin, open_labels, require_one_model
from lerobot_lara.data.latent_labels.labels import LatentLabels
from lerobot_lara.data.latent_labels.manifest import LabelManifest
from lerobot_lara.data.mixture.sources import Source

logger = logging.getLogger(__name__)

# What an entry adds to a sample: index of the frame in its dataset, and frames to the end of its episode -> labels.
Join = Callable[[int, int], dict[str, Tensor]]


class EntryLabels:
    """The labels of all entries.

    Args:
        sources: The opened datasets, that of the reference first.
        request: What the policy wants.
        camera: Camera of the policy that the latent action model looks at.
        frame_size: Height and width, in pixels, of the policy's images of it.
        frame_gaps: K of each entry by its name, in its own frames.

    Attributes:
        manifest: Of the first entry that has labels.

    Raises:
        ValueError: An entry that could teach nothing else has no labels, labels do not fit their dataset, or those of
            two entries do not go together.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        request: LabelRequest,
        *,
        camera: str,
        frame_size: tuple[int, int],
        frame_gaps: Mapping[str, int],
    ) -> None:
        self._request = request
        self._labels: dict[str, LatentLabels] = {}
        for source in sources:
            path = source.config.labels
            if source.config.weight == 0 or camera not in source.cameras:
                continue  # it is not drawn, or `check_camera` has said what that means
            if path is None:
                _report_missing(source)
                continue
            self._labels[source.name] = open_labels(
                path,
                source.meta,
                request,
                camera=source.cameras[camera],
                frame_size=frame_size,
                frame_gap=frame_gaps[source.name],
                episodes=source.episodes(),
                name=source.name,
            )
        if not self._labels:
            raise ValueError(
                "`alignment_source` is 'labels', but no dataset has any. Run `lara label`, and pass its folder as "
                "--policy.lam_labels, or as `labels` of the entries of a mixture file."
            )
        manifests = {name: labels.manifest for name, labels in self._labels.items()}
        self.manifest: LabelManifest = require_one_model(manifests, codes=request.code_steps > 0)
        _require_one_labeling(sources, manifests)

    def join(self, source: Source, *, training: bool) -> Join:
        """What adds the labels to an entry's samples; none where it has none.

        Args:
            source: The entry.
            training: Whether the policy augments the samples.
        """
        labels = self._labels.get(source.name)
        if labels is not None:
            return LabelJoin(labels, self._request, training=training)
        missing = self._no_labels(shifted=training and self._request.random_shift > 0)
        return lambda index, remaining: dict(missing)

    def gap(self, source: Source) -> int:
        """K of an entry's labels, in frames; 0 without."""
        labels = self._labels.get(source.name)
        return 0 if labels is None else labels.manifest.frame_gap

    def describe(self, source: Source) -> dict[str, Any]:
        """What the mixture's record says of an entry's labels, as JSON."""
        labels = self._labels.get(source.name)
        if labels is None:
            return {"labels": None, "label_gap": 0}
        return {"labels": labels.manifest.identity(), "label_gap": labels.manifest.frame_gap}

    def _no_labels(self, *, shifted: bool) -> dict[str, Tensor]:
        """Labels of a sample that has none."""
        if steps := self._request.code_steps:
            codes = torch.zeros(steps, self.manifest.num_latent_tokens, dtype=torch.int64)
            return {LATENT_CODES: codes, LATENT_CODES_IS_PAD: torch.ones(steps, dtype=torch.bool)}
        sample = {
            LATENT_ACTION: torch.zeros(self.manifest.latent_width),
            LATENT_ACTION_IS_PAD: torch.tensor(True),
        }
        return sample | ({LATENT_SHIFT: torch.zeros(2, dtype=torch.int64)} if shifted else {})


def _report_missing(source: Source) -> None:
    if source.action is None:
        raise ValueError(
            f"Entry {source.name!r} has neither actions nor `labels`, so that nothing could be learned from it. Run "
            f"`lara label <lam> {source.config.root or source.config.repo_id} --out=<folder>`, and set `labels`."
        )
    logger.warning("Entry %r has no `labels`, so it teaches only the policy.", source.name)


def _require_one_labeling(sources: Sequence[Source], manifests: Mapping[str, LabelManifest]) -> None:
    """Refuses two different labelings of one dataset: which of them is meant would be left to chance."""
    first: dict[Path, str] = {}
    for source in sources:
        if source.name not in manifests:
            continue
        root = Path(source.meta.root).resolve()
        other = first.setdefault(root, source.name)
        if manifests[other].identity() != manifests[source.name].identity():
            raise ValueError(
                f"The entries {other!r} and {source.name!r} are of one dataset, {root}, but name different `labels`. "
                "Name the same."
            )
