"""One of two processes that train an EMA codebook together: `codebook_worker.py <rank> <directory>`."""

import sys

import torch

from lerobot_lara.lam.quantizer import EMAVectorQuantizer


def main(rank: int, directory: str) -> None:
    """Trains on data of this rank's own; the second has a step without a valid pair."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{directory}/init", rank=rank, world_size=2
    )
    torch.manual_seed(0)
    vq = EMAVectorQuantizer(
        codebook_size=8,
        latent_dim=2,
        decay=0.9,
        kmeans_init=False,
        restart_threshold=1.0,
        commitment_weight=0.25,
    ).train()
    torch.manual_seed(10 + rank)
    for step in range(5):
        valid = torch.rand(8) > 0.3
        if rank == 1 and step == 2:
            valid[:] = False
        vq(torch.randn(8, 2, 2) + 3 * rank, valid, update=True)
    torch.save(vq.state_dict(), f"{directory}/rank{rank}.pt")
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
