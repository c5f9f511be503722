"""A benchmark of vla-eval that needs nothing else: a point is to be moved to 1 on a line."""

import os
import subprocess
import sys
import time
from typing import Any

import numpy as np
from vla_eval.benchmarks.base import StepBenchmark, StepResult


class PointBenchmark(StepBenchmark):
    """Succeeds where the state, a sum of the first numbers of the actions, reaches 1.

    Args:
        size: Height of the image; the width is one more.
        send_state: Send the state (2,): position and episode.
        fault: What goes wrong: "start", "step", "hang", "exit" or "no_success".
        pid_file: Where to write the process ids of the benchmark, and of a child that it starts.
    """

    def __init__(
        self, size: int = 8, send_state: bool = False, fault: str = "", pid_file: str = "", word: str = "go"
    ) -> None:
        super().__init__()
        self.size, self.send_state, self.fault, self.word = size, send_state, fault, word
        if pid_file:
            child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
            with open(pid_file, "w") as file:
                file.write(f"{os.getpid()} {child.pid}")

    def get_tasks(self) -> list[dict[str, Any]]:
        return [{"name": "near", "start": 0.5}, {"name": "far", "start": 0.0}]

    def reset(self, task: dict[str, Any]) -> Any:
        if self.fault == "start":
            raise RuntimeError("the scene is missing")
        self.position, self.episode, self.steps = task["start"], task["episode_idx"], 0
        return None

    def step(self, action: dict[str, Any]) -> StepResult:
        self.steps += 1
        if self.fault == "step" and self.steps == 2:
            raise RuntimeError("the arm has exploded")
        if self.fault == "hang" and self.steps == 2:
            time.sleep(600)
        if self.fault == "exit" and self.steps == 2:
            os._exit(7)
        self.position += float(action["actions"][0])
        return StepResult(None, 0.0, self.position >= 1, {})

    def make_obs(self, raw_obs: Any, task: dict[str, Any]) -> dict[str, Any]:
        shade = int(np.clip(100 * self.position, 0, 200)) + self.episode
        words = self.word.split("/")
        return {
            "images": {"primary": np.full((self.size, self.size + 1, 3), shade, np.uint8)},
            "task_description": words[min(self.steps, len(words) - 1)],
            **({"states": np.array([self.position, self.episode])} if self.send_state else {}),
        }

    def get_step_result(self, step_result: StepResult) -> dict[str, Any]:
        result = {"position": self.position, "success": self.position >= 1}
        if self.fault == "no_success":
            del result["success"]
        return result

    def get_metric_keys(self) -> dict[str, str]:
        return {}
