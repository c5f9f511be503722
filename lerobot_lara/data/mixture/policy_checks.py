"""Checks that a policy can learn from a mixture and has room for all of its dimensions."""

import logging
from collections.abc import Sequence

from lerobot.configs import PreTrainedConfig

from lerobot_lara.data.mixture.samples import SampleLayout
from lerobot_lara.data.mixture.sources import Source

logger = logging.getLogger(__name__)


def check_policy(policy: PreTrainedConfig, sources: Sequence[Source], layout: SampleLayout) -> None:
    """Checks that the policy learns from the entries, and knows what a mixture adds to its batches.

    Args:
        policy: Configuration of the policy.
        sources: The opened datasets.
        layout: What the samples have in common.

    Raises:
        ValueError: The policy is of a type without masks and embodiments, which the entries need.
    """
    if policy.action_delta_indices is None:
        return
    free = [source.name for source in sources if source.action is None]
    if not getattr(policy, "supports_mixtures", False):
        _check_plain_policy(policy, sources, layout, free)
    elif free and (not hasattr(policy, "frame_gap") or getattr(policy, "target_source", "") == "actions"):
        logger.warning(
            "%s learns nothing from the action-free entries %s, whose samples only take up room in its batches.",
            policy.type,
            free,
        )


def _check_plain_policy(
    policy: PreTrainedConfig, sources: Sequence[Source], layout: SampleLayout, free: list[str]
) -> None:
    """Refuses a mixture that a policy type without masks and embodiments would misread."""
    judged = list(sources)
    if getattr(policy, "masks_padded_actions", False):
        # Aligned: it learns from video by its latent actions alone, and its own loss leaves those samples out.
        judged, free = [source for source in sources if source.action is not None], []
    embodiments = sorted({source.embodiment for source in judged})
    wider = layout.max_action_dim > layout.action_dim or layout.max_state_dim > layout.state_dim
    lacks_camera = any(set(source.cameras) != set(layout.cameras) for source in judged)
    for holds, reason in (
        (free, f"cannot learn from samples without actions, but the entries {free} are action-free"),
        (
            len(embodiments) > 1,
            f"has one set of projections, but the entries are of embodiments {embodiments}",
        ),
        (wider, "takes only the dimensions of the reference dataset, but an entry has more"),
        (lacks_camera, "would take a missing camera for a black image, but an entry lacks one"),
        (layout.flag_state, "would take a missing state for a real one, but an entry lacks it"),
    ):
        if holds:
            raise ValueError(
                f"`policy.type` is {policy.type}, which {reason}. Pass --policy.type=lara or lara_dit, or use entries "
                "of the same form."
            )


def embodiment_rows(policy: PreTrainedConfig, names: Sequence[str]) -> dict[str, int]:
    """Looks up the rows of a mixture's embodiments in the policy's state and action projections.

    Args:
        policy: Configuration of the policy; one without `embodiments` gets rows in the order of the names.
        names: Names of the mixture's embodiments.

    Returns:
        Name of each embodiment -> its row.

    Raises:
        ValueError: The policy does not know one of them.
    """
    known = getattr(policy, "embodiments", names)
    missing = [name for name in names if name not in known]
    if missing:
        raise ValueError(
            f"`embodiments` is {known}; it must contain {missing}, that of the data. A new run from a checkpoint "
            "(--policy.path) adds those of a mixture, and that of a single dataset with "
            "--policy.grow_embodiments=true; a resumed run adds none."
        )
    return {name: known.index(name) for name in names}


def check_room(policy: PreTrainedConfig, reference: Source, layout: SampleLayout) -> None:
    """Checks that the policy has room for the robot with the most dimensions.

    Args:
        policy: Configuration of the policy.
        reference: The reference dataset.
        layout: What the samples have in common.

    Raises:
        ValueError: It has too little; says which flag to pass.
    """
    for name in ("state", "action"):
        own, largest = getattr(layout, f"{name}_dim"), getattr(layout, f"max_{name}_dim")
        room = getattr(policy, f"max_{name}_dim", None)
        if largest > own and (room is None or room < largest):
            raise ValueError(
                f"`max_{name}_dim` is {room}; it must be at least {largest}, as an entry has {largest} {name} "
                f"dimensions and the reference dataset {reference.name!r} has {own}. Pass "
                f"--policy.max_{name}_dim={largest}, or choose `{name}.dims` of the entry."
            )


def check_camera(policy: PreTrainedConfig, source: Source, layout: SampleLayout) -> None:
    """Checks that the latent action model, which looks at one camera, sees something of an entry.

    Args:
        policy: Configuration of the policy.
        source: The opened dataset of the entry.
        layout: What the samples have in common.

    Raises:
        ValueError: It sees nothing, and the entry has no actions to learn from either.
    """
    camera = getattr(policy, "lam_camera", None) or getattr(policy, "camera", None) or layout.cameras[0]
    if camera in source.cameras:
        return
    found = f"Entry {source.name!r} lacks the camera {camera!r} of the latent action model and has only "
    if source.action is None:
        raise ValueError(
            f"{found}{sorted(source.cameras)}. Nothing could be learned from it; map one of its cameras to {camera!r}."
        )
    logger.warning("%s%s, so it teaches only the policy.", found, sorted(source.cameras))
