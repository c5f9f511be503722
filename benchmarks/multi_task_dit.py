"""LeRobot's multi-task DiT with and without alignment, each trained on the demo's demonstrations and evaluated.

    python benchmarks/multi_task_dit.py --demo=outputs/demo --out=outputs/multi_task_dit        # after `make demo`

Both have equal steps, seed, data order and random numbers. The encoders of CLIP are small and start at random, as the
pretrained ones are not at hand offline. The commands are LeRobot's own; what is finished is not run again.
"""

import argparse
import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import torch

from lerobot_lara.evaluation.intervals import difference_p_value, wilson_interval

logger = logging.getLogger("multi_task_dit")
TASKS = ("drawer-close-v3", "window-open-v3", "handle-press-v3")
EPISODES = 20
SCRIPTS = Path(sys.executable).parent


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--demo", type=Path, default=Path("outputs/demo"))
    parser.add_argument("--out", type=Path, default=Path("outputs/multi_task_dit"))
    parser.add_argument("--steps", type=int, default=700)
    parser.add_argument("--seed", type=int, default=1000)
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s", force=True)
    clip = args.out / "small-clip"
    if not clip.is_dir():
        save_clip(clip, tasks_of(args.demo / "data" / "demos"))
    lam = args.demo / "train" / "lara_lam" / "checkpoints" / "last" / "pretrained_model"
    alignment = [f"--policy.lam_path={lam}", "--policy.frame_gap=16"]
    logger.info("| policy | solved of %d | 95 %% interval | %s |", EPISODES * len(TASKS), " | ".join(TASKS))
    logger.info("|---|---|---|%s", "---|" * len(TASKS))
    counts = []
    for kind, flags in (("multi_task_dit", []), ("lara_multi_task_dit", alignment)):
        solved = evaluate(train(kind, flags, clip, args), args.out / f"eval_{kind}")
        total = sum(solved)
        counts.append((total, EPISODES * len(TASKS)))
        low, high = wilson_interval(*counts[-1])
        cells = " | ".join(map(str, solved))
        logger.info("| `%s` | %d | %.0f-%.0f %% | %s |", kind, total, 100 * low, 100 * high, cells)
    logger.info("Fisher's exact test of the difference: p = %.2f", difference_p_value(*counts))


def tasks_of(root: Path) -> list[str]:
    """Instructions of a dataset."""
    from lerobot.datasets.lerobot_dataset import LeRobotDatasetMetadata

    return [str(task) for task in LeRobotDatasetMetadata("lara-demo/demos", root=root).tasks.index]


def save_clip(folder: Path, instructions: list[str]) -> None:
    """Writes a small CLIP with random weights, and a tokenizer of the words of the instructions."""
    import transformers as tf
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

    words = sorted({word for text in instructions for word in text.lower().split()})
    vocabulary = {word: i for i, word in enumerate(["<pad>", "<unk>", "<bos>", "<eos>", *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    names = {"pad_token": "<pad>", "unk_token": "<unk>", "bos_token": "<bos>", "eos_token": "<eos>"}
    tf.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(folder)
    small = {"num_hidden_layers": 2, "num_attention_heads": 4, "projection_dim": 64}
    vision = small | {"hidden_size": 128, "intermediate_size": 256, "image_size": 64, "patch_size": 8}
    text = small | {
        "hidden_size": 64,
        "intermediate_size": 128,
        "vocab_size": len(vocabulary),
        "max_position_embeddings": 77,
        "pad_token_id": 0,
        "bos_token_id": 2,
        "eos_token_id": 3,
    }
    torch.manual_seed(0)
    config = tf.CLIPConfig(projection_dim=64, vision_config=vision, text_config=text)
    tf.CLIPModel(config).save_pretrained(folder)


def train(kind: str, flags: list[str], clip: Path, args: argparse.Namespace) -> Path:
    """Trains a policy; returns its last checkpoint."""
    out = args.out / f"train_{kind}"
    checkpoint = out / "checkpoints" / "last" / "pretrained_model"
    if not checkpoint.exists():
        command = [
            SCRIPTS / "lerobot-train",
            f"--policy.type={kind}",
            "--policy.push_to_hub=false",
            "--policy.device=cpu",
            f"--policy.vision_encoder_name={clip}",
            f"--policy.text_encoder_name={clip}",
            "--policy.vision_encoder_lr_multiplier=1.0",
            "--policy.image_crop_shape=null",
            "--policy.objective=flow_matching",
            "--policy.num_integration_steps=6",
            "--policy.horizon=16",
            "--policy.n_obs_steps=1",
            "--policy.n_action_steps=8",
            "--policy.hidden_dim=128",
            "--policy.num_layers=4",
            "--policy.num_heads=4",
            "--policy.optimizer_lr=5e-4",
            "--policy.scheduler_warmup_steps=50",
            "--dataset.repo_id=lara-demo/demos",
            f"--dataset.root={args.demo / 'data' / 'demos'}",
            "--dataset.use_imagenet_stats=false",
            f"--output_dir={out}",
            f"--seed={args.seed}",
            f"--steps={args.steps}",
            "--batch_size=32",
            "--num_workers=0",
            "--log_freq=50",
            "--save_freq=100000",
            "--env_eval_freq=0",
            *flags,
        ]
        run(command, args.out / f"train_{kind}.log")
    return checkpoint


def evaluate(checkpoint: Path, out: Path) -> list[int]:
    """Evaluates a policy; returns how many episodes of each task it solves."""
    info = out / "eval_info.json"
    if not info.exists():
        command = [
            SCRIPTS / "lerobot-eval",
            f"--policy.path={checkpoint}",
            "--policy.device=cpu",
            "--env.type=metaworld_fast",
            f"--env.task={','.join(TASKS)}",
            f"--eval.n_episodes={EPISODES}",
            "--env.image_size=64",
            "--env.episode_length=200",
            "--env.render_interval=8",
            "--eval.batch_size=1",
            "--seed=1000",
            f"--output_dir={out}",
        ]
        run(command, out.with_suffix(".log"))
    per_task = {entry["task_group"]: entry for entry in json.loads(info.read_text())["per_task"]}
    return [sum(per_task[task]["metrics"]["successes"]) for task in TASKS]


def run(command: list[object], log: Path) -> None:
    """Runs a command on one core, with its output in a file."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "MUJOCO_GL": "egl"}
    with log.open("w") as file:
        subprocess.run(
            [str(part) for part in command],
            stdout=file,
            stderr=subprocess.STDOUT,
            env=environment,
            check=True,
        )


if __name__ == "__main__":
    main()
