"""Whether a dataset's episodes are long enough for pairs of frames that are `frame_gap` apart."""

import logging
from collections.abc import Sequence

logger = logging.getLogger(__name__)


def check_frame_gap(episode_lengths: Sequence[int], frame_gap: int) -> int:
    """Makes sure some episode yields a pair (o_t, o_{t+frame_gap}) and warns about those that yield none.

    An episode of n frames holds n - frame_gap pairs, none when n <= frame_gap. What such an episode yields
    instead is clamped at its last frame and masked, so it trains nothing.

    Args:
        episode_lengths: number of frames of each episode.
        frame_gap: distance in frames between the two frames of a pair, at least 1.

    Returns:
        The number of pairs in all episodes together.

    Raises:
        ValueError: if `frame_gap` is below 1, if there is no episode, or if no episode yields a pair.
    """
    if frame_gap < 1:
        raise ValueError(
            f"`frame_gap` is {frame_gap}; it must be at least 1. Give the number of frames between the two of a pair."
        )
    if len(episode_lengths) == 0:
        raise ValueError(
            f"`frame_gap` is {frame_gap}, but there is no episode. Choose a dataset or `episodes` that hold some."
        )
    num_without_pair = sum(length <= frame_gap for length in episode_lengths)
    num_episodes = len(episode_lengths)
    if num_without_pair == num_episodes:
        longest = max(episode_lengths)
        advice = f"Set it to {longest - 1} or less" if longest > 1 else "Use longer episodes"
        raise ValueError(
            f"`frame_gap` is {frame_gap}, which leaves no pair of frames: the longest of {num_episodes} episode(s) has "
            f"{longest} frame(s). {advice}; a gap in seconds is frame_gap / fps of the dataset."
        )
    if num_without_pair:
        logger.warning(
            "`frame_gap` is %d: %d of %d episodes yield no pair of frames (shortest: %d frames) and do not train "
            "the latent action model. Lower frame_gap to use them.",
            frame_gap,
            num_without_pair,
            num_episodes,
            min(episode_lengths),
        )
    return sum(max(0, length - frame_gap) for length in episode_lengths)
