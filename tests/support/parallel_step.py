"""A training step of a tiny `lara` in every process of a `torchrun`, under DDP, then FSDP; see test_parallel_step.py.

FOLDER holds lam/ and gets <mode>_<rank>.json (the losses), and from rank 0 gradients.safetensors (ddp) and checkpoint/
(fsdp).
"""

import json
import os
from pathlib import Path
from types import SimpleNamespace

import torch
from safetensors.torch import save_file
from torch import distributed

from lerobot_lara.configuration_lara import LaraConfig
from lerobot_lara.dit import modeling_lara_dit
from lerobot_lara.modeling_lara import LaraPolicy

BATCH_SIZE = 8
LR = 0.1


def fix_noise() -> None:
    """The noise of a sample becomes a function of its actions, so that it is the same in whatever process."""
    modeling_lara_dit.torch = SimpleNamespace(
        **{name: getattr(torch, name) for name in dir(torch) if name != "randn_like"},
        randn_like=lambda actions: torch.sin(100 * actions),
    )
    modeling_lara_dit.sample_timestep = lambda size, **_: torch.full((size,), 0.4)


def make_policy(lam_path: Path) -> LaraPolicy:
    from support.policies import TINY, features, wake

    torch.manual_seed(0)
    config = LaraConfig(
        **TINY | features(),
        lam_path=str(lam_path),
        frame_gap=4,
        alignment_target="joint",
        alignment_loss="contrastive",
        alignment_relative=True,
        lam_loss_weight=1.0,
    )
    policy = LaraPolicy(config)
    wake(policy.action_head)
    return policy.train()


def make_batch() -> dict[str, torch.Tensor]:
    """Samples with padded steps and masked pairs, unequally shared out between the halves of the batch."""
    from support.policies import CAMERA, pair_batch

    batch = pair_batch(BATCH_SIZE)
    batch["action_is_pad"][0, 3:] = True
    batch[f"{CAMERA}_is_pad"][:3, 1] = True
    batch["observation.dataset_index"] = torch.tensor([0, 1, 0, 1, 1, 1, 0, 0])
    return batch


def make_optimizer(policy: torch.nn.Module) -> torch.optim.Optimizer:
    """Not AdamW: its first step is the sign of the gradient, which rounding decides where that is about 0."""
    return torch.optim.SGD(policy.parameters(), lr=LR)


def save_full(parallel: torch.nn.Module, policy: LaraPolicy, folder: Path) -> None:
    """Gathers the weights and saves them as LeRobot does, by `save_pretrained(state_dict=...)` on the first process.

    LeRobot gathers with `FSDP.state_dict_type`, whose result on the CPU points to memory that is freed at once.
    """
    from torch.distributed.fsdp import FullyShardedDataParallel

    with FullyShardedDataParallel.summon_full_params(parallel, writeback=False):
        state = {
            name.replace("_fsdp_wrapped_module.", ""): value.clone()
            for name, value in policy.state_dict().items()
        }
    if distributed.get_rank() == 0:
        policy.save_pretrained(folder, state_dict=state)


def main() -> None:
    distributed.init_process_group("gloo")
    fix_noise()
    for mode in ("ddp", "fsdp"):
        train_one_step(Path(os.environ["FOLDER"]), mode)
    distributed.destroy_process_group()


def train_one_step(folder: Path, mode: str) -> None:
    rank, size = distributed.get_rank(), distributed.get_world_size()
    policy = make_policy(folder / "lam")
    share = BATCH_SIZE // size
    batch = {key: value[rank * share : (rank + 1) * share] for key, value in make_batch().items()}
    if mode == "ddp":
        parallel = torch.nn.parallel.DistributedDataParallel(policy, find_unused_parameters=True)
    else:
        from accelerate.utils import FullyShardedDataParallelPlugin
        from torch.distributed.fsdp import FullyShardedDataParallel

        # accelerate's own reading of configs/accelerate/fsdp.yaml, which on the CPU would leave FSDP out.
        plugin = FullyShardedDataParallelPlugin(
            auto_wrap_policy="transformer_based_wrap", use_orig_params=True
        )
        plugin.set_auto_wrap_policy(policy)
        parallel = FullyShardedDataParallel(
            policy,
            use_orig_params=True,
            device_id=torch.device("cpu"),
            auto_wrap_policy=plugin.auto_wrap_policy,
        )
        wrapped = [m for m in parallel.modules() if isinstance(m, FullyShardedDataParallel)]
        assert len(wrapped) == 1 + 3 + 2, "the policy, its three blocks and the LAM's two"
    optimizer = make_optimizer(parallel)
    loss, log = parallel(batch)
    loss.backward()
    (folder / f"{mode}_{rank}.json").write_text(json.dumps({"loss": loss.item(), **log}))
    if mode == "ddp" and rank == 0:
        gradients = {name: p.grad.contiguous() for name, p in policy.named_parameters() if p.grad is not None}
        save_file(gradients, folder / "gradients.safetensors")
    optimizer.step()
    if mode == "fsdp":
        save_full(parallel, policy, folder / "checkpoint")
    distributed.barrier()


if __name__ == "__main__":
    main()
