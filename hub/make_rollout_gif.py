"""Draws the rollouts at the top of the README from the evaluation videos of `make demo`.

    python hub/make_rollout_gif.py outputs/demo hub/assets/rollout.gif

A column for each task, a row for DiT only and for LARA; in a column both start in the same scene. Shown is the first
filmed episode of each task, whatever came of it.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from lerobot_lara.evaluation.figures import arm_label
from lerobot_lara.evaluation.report import read_frames

ARMS = ("lara_dit", "lara")
NUM_FRAMES, MILLISECONDS, HOLD_MILLISECONDS = 24, 150, 1500
TILE, MARGIN, LINE = 192, 8, 20  # pixels
COLORS = 48


def first_episode(demo: Path, arm: str, entry: dict) -> tuple[np.ndarray, bool]:
    """Frames (NUM_FRAMES, H, W, 3) uint8 of the first filmed episode, and whether it was solved."""
    folder = demo / "eval" / arm / "videos" / f"{entry['task_group']}_{entry['task_id']}"
    frames = read_frames(folder / "eval_episode_0.mp4", NUM_FRAMES)
    padding = np.repeat(frames[-1:], NUM_FRAMES - len(frames), axis=0)
    return np.concatenate([frames, padding]), bool(entry["metrics"]["successes"][0])


def draw(demo: Path) -> list[Image.Image]:
    """The pictures of the animation."""
    tasks = {
        arm: json.loads((demo / "eval" / arm / "eval_info.json").read_text())["per_task"] for arm in ARMS
    }
    columns = len(tasks[ARMS[0]])
    size = (columns * (TILE + MARGIN) + MARGIN, len(ARMS) * (TILE + LINE + MARGIN) + LINE + MARGIN)
    pictures = [Image.new("RGB", size, "white") for _ in range(NUM_FRAMES)]
    font = ImageFont.load_default(size=14)
    for row, arm in enumerate(ARMS):
        for column, entry in enumerate(tasks[arm]):
            frames, solved = first_episode(demo, arm, entry)
            x, y = MARGIN + column * (TILE + MARGIN), LINE + row * (TILE + LINE + MARGIN)
            for picture, frame in zip(pictures, frames, strict=True):
                pen = ImageDraw.Draw(picture)
                if row == 0:
                    pen.text((x, 1), entry["task_group"], "black", font=font)
                label = f"{arm_label(arm)}: {'solved' if solved else 'not solved'}"
                pen.text((x, y + TILE + 2), label, "black", font=font)
                picture.paste(Image.fromarray(frame).resize((TILE, TILE), Image.Resampling.NEAREST), (x, y))
    return pictures


def main() -> None:
    """Reads the arguments and writes the animation."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("demo", type=Path, help="output folder of `make demo`")
    parser.add_argument("gif", type=Path, help="file to write")
    arguments = parser.parse_args()
    pictures = [
        picture.quantize(colors=COLORS, method=Image.Quantize.MEDIANCUT) for picture in draw(arguments.demo)
    ]
    durations = [MILLISECONDS] * (NUM_FRAMES - 1) + [HOLD_MILLISECONDS]
    pictures[0].save(
        arguments.gif, save_all=True, append_images=pictures[1:], duration=durations, loop=0, optimize=True
    )


if __name__ == "__main__":
    main()
