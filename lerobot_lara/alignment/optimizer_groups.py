"""A policy's optimizer parameters, with those of a latent action model (LAM) as a group of their own."""

from collections.abc import Iterable
from typing import Any

from torch import nn


def with_lam_group(
    parameters: Any, lam: nn.Module | None, alignment: nn.Module | None, *, lam_lr: float | None
) -> Any:
    """Adds a group for the LAM to what a base's `get_optim_params` returns.

    A base lists all parameters that it finds in itself, also those of the LAM and the alignment head, or only those of
    parts that it knows. Either way each trained parameter ends up in one group.

    Args:
        parameters: Parameters, groups of parameters, or, for an optimizer that goes by name, parameters by name.
        lam: None if there is none.
        alignment: None if there is none.
        lam_lr: Learning rate of the LAM; None takes the policy's.

    Returns:
        A list of groups: the base's, with the alignment head in the first, and the LAM's if it learns. By name, the
        dict with all of them.

    Raises:
        ValueError: `lam_lr` is set for an optimizer that goes by name.
    """
    own = {name: p for name, p in _named(alignment, "alignment.") if p.requires_grad}
    learned = {name: p for name, p in _named(lam, "lam.") if p.requires_grad}
    if isinstance(parameters, dict):
        if lam_lr is not None:
            raise ValueError(
                f"`lam_lr` is {lam_lr}, but this policy's optimizer chooses learning rates by name. Leave it out."
            )
        return {name: p for name, p in parameters.items() if p.requires_grad} | own | learned
    groups = list(parameters)
    if not groups or not isinstance(groups[0], dict):
        groups = [{"params": groups}]
    in_lam = {id(p) for p in learned.values()}
    groups = [group | {"params": _without(group["params"], in_lam)} for group in groups]
    listed = {id(p) for group in groups for p in group["params"]}
    groups[0]["params"] += [p for p in own.values() if id(p) not in listed]
    if learned:
        groups.append({"params": list(learned.values())} | ({} if lam_lr is None else {"lr": lam_lr}))
    return groups


def _without(parameters: Iterable[nn.Parameter], left_out: set[int]) -> list[nn.Parameter]:
    return [p for p in parameters if id(p) not in left_out]


def _named(module: nn.Module | None, prefix: str) -> list[tuple[str, nn.Parameter]]:
    return [] if module is None else [(prefix + name, p) for name, p in module.named_parameters()]
