"""What a policy has to provide so that latent action alignment can stand before it.

Everything else that `LatentAlignmentMixin` can make use of is optional: `augment`, `mixture`, `shared_image_encoder`,
`update`, FSDP's and PEFT's lists, and the settings `compile_model` and `gradient_checkpointing` of the configuration.

Legend: B batch, N action tokens, D width of the hidden states.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

from torch import Tensor, nn


@dataclass(frozen=True)
class TapPoint:
    """Where the hidden states that a block puts out can be read.

    Args:
        module: A module that is called as such in every training forward pass. A policy that calls the parts of its
            blocks one by one, as SmolVLA and pi0 do, names what comes next: the following block's norm.
        side: Whether the hidden states are what the module returns or what it is given.
        index: Position of the hidden states in the module's output, if that is a tuple, or among its positional inputs.
    """

    module: nn.Module
    side: Literal["output", "input"] = "output"
    index: int = 0


@runtime_checkable
class AlignmentBase(Protocol):
    """The contract between `LatentAlignmentMixin` and the policy that it aligns."""

    @property
    def alignment_width(self) -> int:
        """D, width of the hidden states."""
        ...

    @property
    def alignment_taps(self) -> Sequence[TapPoint]:
        """One for each block of the action network, in order."""
        ...

    def action_tokens(self, hidden_states: Tensor, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor | None]:
        """Picks the action tokens out of a block's hidden states.

        Args:
            hidden_states: What the tap kept.
            batch: The batch that `flow_loss` was given.

        Returns:
            (B, N, D), and (B, N) bool, False at tokens without a real action; None is all True.
        """
        ...

    def flow_loss(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Any] | None]:
        """The policy's own training loss, with its terms for the log.

        Args:
            batch: The policy's batch; its observations are those of o_t, without a time axis.
        """
        ...


def require_alignment_base(policy: Any) -> AlignmentBase:
    """Returns the policy, after making sure that it can be aligned.

    Raises:
        ValueError: Names the members that are missing.
    """
    if not isinstance(policy, AlignmentBase):
        members = ("alignment_width", "alignment_taps", "action_tokens", "flow_loss")
        missing = [name for name in members if not hasattr(policy, name)]
        raise ValueError(
            f"{type(policy).__name__} lacks {missing}, which latent action alignment needs. Define them as "
            "`lerobot_lara.policy.alignment_contract.AlignmentBase` describes."
        )
    return policy
