"""`lara bases`: lists the policies that can be aligned, and what works with each."""

import argparse
import sys
from dataclasses import fields
from importlib.util import find_spec
from typing import Any

HEADINGS = ("policy type", "base", "width x blocks", "read at", "packages", "video", "PEFT", "RTC", "compile")
LEGEND = """
width x blocks: of the released checkpoint; --policy.alignment_layer counts these blocks from 1.
video: whether entries without actions may be mixed in; "flag" needs --policy.do_mask_loss_for_padding=true.
PEFT: whether --peft.* works without --peft.target_modules. RTC, compile: whether the base has these settings.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds nothing: the command has no arguments."""


def run(args: argparse.Namespace) -> int:
    """Writes the table and returns 0."""
    rows = [HEADINGS, *table()]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADINGS))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows]
    sys.stdout.write("\n".join(lines) + "\n" + LEGEND)
    return 0


def table() -> list[tuple[str, ...]]:
    """One row for each base, in the columns of `HEADINGS`."""
    from lerobot.configs import PreTrainedConfig
    from lerobot.policies.factory import get_policy_class

    from lerobot_lara.alignment.bases import BASES

    rows: list[tuple[str, ...]] = []
    for config_class in BASES:
        config: Any = config_class
        name = PreTrainedConfig.get_choice_name(config)
        policy = get_policy_class(name)
        names = {field.name for field in fields(config)}
        width, blocks = config.released_size
        video = config.masks_padded_actions
        rows.append(
            (
                name,
                config.base_type(),
                f"{width} x {blocks}",
                config.tap,
                _packages(config.packages),
                "flag" if isinstance(video, property) else _yes(video),
                _yes(_has_own(policy, "_get_default_peft_targets")),
                _yes("rtc_config" in names),
                _yes("compile_model" in names),
            )
        )
    return rows


def _packages(packages: dict[str, str]) -> str:
    found = [f"{name}{'' if find_spec(module) else ' (missing)'}" for name, module in packages.items()]
    return ", ".join(found) or "-"


def _has_own(policy: type, method: str) -> bool:
    """Whether the base behind the alignment defines a method that LeRobot's policies share."""
    from lerobot.policies.pretrained import PreTrainedPolicy

    behind = [each for each in policy.__mro__ if each.__module__.startswith("lerobot.policies.")]
    return any(method in vars(each) for each in behind if each is not PreTrainedPolicy)


def _yes(value: object) -> str:
    return "yes" if value else "no"
