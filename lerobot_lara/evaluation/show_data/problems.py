"""Finds what a user should look at in the numbers of a mixture's datasets."""

from collections.abc import Sequence
from typing import Any

from lerobot.utils.constants import ACTION

from lerobot_lara.evaluation.show_data.pairs import NO_MOTION_SHARE

# Frame gaps whose durations differ by more than this factor show different motions.
GAP_RATIO = 1.25


def find_problems(entries: Sequence[dict[str, Any]]) -> list[dict[str, str]]:
    """Lists what a user should look at.

    Args:
        entries: Return values of `describe_entry`, with "cameras" from `describe_cameras`.

    Returns:
        Problems, with the "name" of the dataset ("" for the mixture as a whole) and a "text".
    """
    found = [{"name": entry["name"], "text": text} for entry in entries for text in _entry_problems(entry)]
    gaps = [entry["gap_s"] for entry in entries]
    if max(gaps) > GAP_RATIO * min(gaps):
        listed = ", ".join(f"{entry['name']} {entry['gap_s']:.2g} s" for entry in entries)
        text = (
            f"The frames of a pair are {max(gaps) / min(gaps):.1f} times further apart in one dataset than in another "
            f"({listed}). If the robots are equally fast, set one frame_gap_s for all."
        )
        found.append({"name": "", "text": text})
    return found


def _entry_problems(entry: dict[str, Any]) -> list[str]:
    found = []
    for index, camera in enumerate(entry["cameras"]):
        if camera["key"] is None:
            if index == 0:
                found.append(
                    f"It lacks {camera['camera']}, from which the latent action model learns by default: its pairs "
                    "teach nothing."
                )
            continue
        if 2 * camera["no_motion"] > camera["pairs"]:
            found.append(
                f"Many pairs show no motion: in {camera['no_motion']} of {camera['pairs']} from {camera['key']}, less "
                f"than {NO_MOTION_SHARE:.1%} of the pixels change visibly. Raise the frame gap "
                f"({entry['gap_s']:.2g} s), or check whether the camera sees the robot."
            )
        if camera["black"]:
            found.append(f"{camera['black']} of {camera['images']} frames of {camera['key']} are black.")
    if count := entry["lengths"]["without_pair"]:
        found.append(
            f"{count} of {entry['episodes']} episodes are too short for a pair: they have at most {entry['gap']} "
            f"frames, {entry['gap_s']:.2g} s."
        )
    if count := entry["language"]["missing"]:
        found.append(f"{count} of {entry['language']['episodes']} episodes have no instruction.")
    for vectors in entry["vectors"]:
        constant = [row["name"] for row in vectors["rows"] if row["constant"]]
        lost = [row["name"] for row in vectors["rows"] if row["lost"]]
        outliers = [row["name"] for row in vectors["rows"] if row["outlier"]]
        if constant and vectors["key"] == ACTION:
            found.append(f"Action dimensions that never change: {', '.join(constant)}.")
        if lost:
            found.append(
                f"{vectors['title']} that move here, but reach the policy as a constant, as the reference dataset's "
                f"never change: {', '.join(lost)}. Map other dimensions onto them, or choose another `reference`."
            )
        if outliers:
            found.append(
                f"{vectors['title']} with values more than {vectors['outlier']:g} {vectors['unit']} from the middle: "
                f"{', '.join(outliers)}. Check for broken episodes."
            )
    return found
