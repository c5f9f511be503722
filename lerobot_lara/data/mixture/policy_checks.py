"""Whether a policy can learn from a mixture, and has room for all of it."""

import logging
from collections.abc import Sequence

from lerobot.configs import PreTrainedConfig

from lerobot_lara.data.mixture.samples import SampleLayout
from lerobot_lara.data.mixture.sources import Source

logger = logging.getLogger(__name__)


def check_policy(policy: PreTrainedConfig, sources: Sequence[Source], layout: SampleLayout) -> None:
    """Whether the policy learns from the entries, and knows what a mixture adds to its batches.

    Raises:
        ValueError: It is of a type without masks and embodiments, and the entries need them.
    """
    if policy.action_delta_indices is None:
        return
    free = [source.name for source in sources if source.action is None]
    if not getattr(policy, "supports_mixtures", False):
        _check_plain_policy(policy, sources, layout, free)
    elif free and not hasattr(policy, "frame_gap"):
        logger.warning(
            "%s learns nothing from the action-free entries %s; their samples only take up room in its batches.",
            policy.type,
            free,
        )


def _check_plain_policy(
    policy: PreTrainedConfig, sources: Sequence[Source], layout: SampleLayout, free: list[str]
) -> None:
    embodiments = sorted({source.embodiment for source in sources})
    wider = layout.max_action_dim > layout.action_dim or layout.max_state_dim > layout.state_dim
    for holds, reason in (
        (free, f"cannot learn from samples without actions, but the entries {free} are action-free"),
        (
            len(embodiments) > 1,
            f"has one set of projections, but the entries are of embodiments {embodiments}",
        ),
        (wider, "takes the target's dimensions only, but an entry has more"),
        (layout.flag_cameras, "would take a missing camera for a black image, but an entry lacks one"),
        (layout.flag_state, "would take a missing state for a real one, but an entry lacks it"),
    ):
        if holds:
            raise ValueError(
                f"--policy.type={policy.type} {reason}. Use --policy.type=lara or lara_dit, or entries of one form."
            )


def embodiment_rows(policy: PreTrainedConfig, names: Sequence[str]) -> dict[str, int]:
    """Name of each embodiment of a mixture -> row of the policy's projections, where it has such.

    Raises:
        ValueError: The policy lacks one.
    """
    known = getattr(policy, "embodiments", names)
    missing = [name for name in names if name not in known]
    if missing:
        raise ValueError(
            f"The mixture has the embodiments {missing}, but the policy's `embodiments` are {known}. They are added "
            "when a run starts, from scratch or from --policy.path, not when it is resumed."
        )
    return {name: known.index(name) for name in names}


def check_room(policy: PreTrainedConfig, target: Source, layout: SampleLayout) -> None:
    """Whether the policy has room for the largest robot.

    Raises:
        ValueError: It has not; says which flag to pass.
    """
    for name in ("state", "action"):
        own, largest = getattr(layout, f"{name}_dim"), getattr(layout, f"max_{name}_dim")
        room = getattr(policy, f"max_{name}_dim", None)
        if largest > own and (room is None or room < largest):
            raise ValueError(
                f"An entry has {largest} {name} dimensions, the target {target.name!r} {own}, but "
                f"--policy.max_{name}_dim is {room}. Pass --policy.max_{name}_dim={largest}, or pick `{name}.dims`."
            )


def check_camera(policy: PreTrainedConfig, source: Source, layout: SampleLayout) -> None:
    """Whether the latent action model, which looks at one camera, sees anything of an entry.

    Raises:
        ValueError: It does not, and the entry has no actions to learn from either.
    """
    camera = getattr(policy, "lam_camera", None) or getattr(policy, "camera", None) or layout.cameras[0]
    if camera in source.cameras:
        return
    found = f"Entry {source.name!r} lacks the camera {camera!r} of the latent action model; it has "
    if source.action is None:
        raise ValueError(
            f"{found}{sorted(source.cameras)}. Nothing could be learned from it: map a camera to {camera!r}."
        )
    logger.warning("%s%s, so that it teaches the policy only.", found, sorted(source.cameras))
