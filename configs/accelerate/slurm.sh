#!/bin/bash
# Several machines under Slurm: one task per machine, which starts a process per GPU.
#
#   sbatch configs/accelerate/slurm.sh --config_path=configs/paper/stage2_lara.yaml --dataset.repo_id=... \
#     --policy.lam_path=... --policy.repo_id=...
#
# Submit an interrupted job again with `--config_path=<output>/checkpoints/last/pretrained_model/train_config.json
# --resume=true`. ACCELERATE_CONFIG=configs/accelerate/fsdp.yaml shards the policy.
#SBATCH --job-name=lara
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --output=%x-%j.log
set -euo pipefail
hosts=$(scontrol show hostnames "$SLURM_JOB_NODELIST")
export HOST="${hosts%%$'\n'*}" GPUS="${SLURM_GPUS_ON_NODE:-8}"
srun bash -c 'accelerate launch --config_file="${ACCELERATE_CONFIG:-configs/accelerate/ddp.yaml}" \
  --num_machines="$SLURM_NNODES" --num_processes="$((SLURM_NNODES * GPUS))" --machine_rank="$SLURM_NODEID" \
  --main_process_ip="$HOST" --main_process_port=29500 "$(which lerobot-train)" "$@"' lerobot-train "$@"
