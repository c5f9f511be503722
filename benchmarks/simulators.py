"""Steps per second of one CPU core in the simulators, with images: `python benchmarks/simulators.py`.

Counts the processor time of this process, so that other work on the machine matters little.
"""

import argparse
import sys
import time

import numpy as np

from lerobot_lara.envs.demonstration_sources import SOURCES

SIZES = {
    "metaworld": [(128, 128)],
    "simpler": [(480, 640), (192, 256), (96, 128)],
    "libero": [(256, 256), (128, 128)],
}
TASKS = {
    "metaworld": "drawer-open-v3",
    "simpler": "widowx_carrot_on_plate",
    "libero": "libero_spatial_0",
}


def steps_per_second(name: str, size: tuple[int, int], steps: int) -> float:
    env = SOURCES[name].make_env(TASKS[name], size)
    env.reset(seed=0)
    action = np.zeros(env.action_space.shape, dtype=np.float32)
    env.step(action)
    start = time.process_time()
    for _ in range(steps):
        env.step(action)
    seconds = time.process_time() - start
    env.close()
    return steps / seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=40)
    arguments = parser.parse_args()
    for name, sizes in SIZES.items():
        for size in sizes:
            rate = steps_per_second(name, size, arguments.steps)
            sys.stdout.write(f"| {name} | {size[0]} x {size[1]} | {rate:.1f} |\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
