"""Chooses pairs that represent a code, or a direction of continuous latents.

Shapes: N pairs, D latent width, S side of the frames.
"""

from dataclasses import dataclass

import numpy as np
import torch
from sklearn.decomposition import PCA

from lerobot_lara.evaluation.probe.data import Pairs
from lerobot_lara.evaluation.probe.latent_statistics import count_codes
from lerobot_lara.evaluation.probe.model import Latents

NUM_EXAMPLES = 5
NUM_COMPONENTS = 3
NUM_CODES = 8
# Number of pairs whose change is averaged.
GROUP_SIZE = 48


@dataclass(frozen=True)
class Group:
    """Pairs with similar latent actions.

    Attributes:
        title: What the pairs share.
        examples: Indices of up to `NUM_EXAMPLES` pairs, of different episodes where possible.
        members: Indices of up to `GROUP_SIZE` pairs.
    """

    title: str
    examples: np.ndarray
    members: np.ndarray


def choose_groups(latents: Latents, episodes: np.ndarray, codebook_size: int | None) -> list[Group]:
    """Groups pairs by the most used codes, or by the ends and the middle of the first principal components.

    Args:
        latents: Latents of N pairs.
        episodes: (N,) episode of each pair.
        codebook_size: Number of codes, or None without a quantizer.

    Returns:
        The groups; none if continuous latents are constant.
    """
    if latents.codes is not None and codebook_size is not None:
        return _code_groups(latents, episodes, codebook_size)
    return _component_groups(latents.continuous.double().numpy(), episodes)


def mean_change(pairs: Pairs, members: np.ndarray) -> np.ndarray:
    """Signed change of brightness, averaged over the given pairs, (S, S) in [-1, 1]."""
    current, future = pairs.images(members).unbind(1)
    return (future - current).mean((0, 1)).numpy()


def _code_groups(latents: Latents, episodes: np.ndarray, codebook_size: int) -> list[Group]:
    assert latents.codes is not None
    counts = count_codes(latents, codebook_size)
    groups = []
    for code in np.argsort(-counts, kind="stable")[:NUM_CODES]:
        if counts[code] == 0:
            break
        uses = (latents.codes == int(code)).sum(1)  # number of the pair's tokens with this code
        # Pairs with the code in the most tokens come first.
        members = torch.argsort(uses, descending=True, stable=True)[: int((uses > 0).sum())].numpy()
        share = counts[code] / counts.sum()
        groups.append(_group(f"code {code}\n{share:.0%} of tokens", members, episodes))
    return groups


def _component_groups(values: np.ndarray, episodes: np.ndarray) -> list[Group]:
    spread = values.var(0).sum()
    if spread <= 1e-6 * np.square(values).sum(1).mean():
        return []
    pca = PCA(min(NUM_COMPONENTS, *values.shape)).fit(values)
    groups = []
    for number, scores in enumerate(pca.transform(values).T, start=1):
        share = pca.explained_variance_ratio_[number - 1]
        if share < 0.005:
            break
        middle = np.abs(scores - np.median(scores))
        for name, order in (("lowest", scores), ("middle", middle), ("highest", -scores)):
            title = f"component {number}\n({share:.0%}) {name}"
            groups.append(_group(title, np.argsort(order, kind="stable"), episodes))
    return groups


def _group(title: str, ordered: np.ndarray, episodes: np.ndarray) -> Group:
    _, first = np.unique(episodes[ordered], return_index=True)
    distinct = np.sort(first)  # the best pair of each episode, in order
    rest = np.setdiff1d(np.arange(len(ordered)), distinct)
    examples = ordered[np.concatenate([distinct, rest])[:NUM_EXAMPLES]]
    return Group(title, examples, ordered[:GROUP_SIZE])
