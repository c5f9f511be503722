"""A benchmark of vla-eval in another process as a Gymnasium environment, which is the server that the harness asks.

The harness asks a policy server for actions. Here the environment is that server: what the harness sends as an
observation, `reset` and `step` return, and what `step` is given goes back as the answer.
"""

import logging
import os
import queue
import signal
import subprocess
import tempfile
import threading
import time
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from lerobot.utils.constants import OBS_IMAGE, OBS_IMAGES
from vla_eval.cli.config_loader import load_config
from vla_eval.protocol.messages import Message, MessageType, make_hello_payload, pack_message, unpack_message
from websockets.exceptions import ConnectionClosed
from websockets.sync.server import Server, ServerConnection, serve

from lerobot_lara.envs.simpler_conventions import make_convention
from lerobot_lara.files.atomic import write_json

# Which says nothing of every connection.
websocket_logger = logging.getLogger(f"{__name__}.websockets")
websocket_logger.setLevel(logging.WARNING)
# Benchmarks of this package, which need neither torch nor LeRobot, so that any environment can import them.
BENCHMARKS = Path(__file__).parents[1] / "serving" / "benchmarks"
LARGEST_MESSAGE = 256 * 1024**2
LOG_LINES = 60
# How long the harness waits for an answer; what happens between two steps here, such as writing videos, takes time.
ANSWER_SECONDS = 24 * 3600.0
END_SECONDS = 5.0

# Runs the harness, and ends it with all it has started when this process does, even if it is killed: the pipe whose
# number is the first argument then closes. Must also run on the old Python of a simulator.
RUN_HARNESS = """
import os, runpy, signal, sys, threading
pipe = int(sys.argv.pop(1))
def end():
    os.read(pipe, 1)
    os.killpg(os.getpid(), signal.SIGKILL)
threading.Thread(target=end, daemon=True).start()
sys.argv[0] = "vla-eval"
runpy.run_module("vla_eval.cli.main", run_name="__main__")
"""


def read_benchmark(config_file: str | Path) -> dict[str, Any]:
    """Reads the only entry of a file for `vla-eval run`.

    Raises:
        ValueError: The file is damaged, or has not exactly one entry in `benchmarks`.
    """
    try:
        config = load_config(str(config_file))
    except Exception as error:  # of YAML and OmegaConf, which share no class
        raise ValueError(f"`config_file` {config_file} cannot be read: {error}. Correct it.") from error
    entries = config.get("benchmarks")
    if not isinstance(entries, list) or len(entries) != 1 or not isinstance(entries[0], dict):
        found = len(entries) if isinstance(entries, list) else "no"
        raise ValueError(
            f"`config_file` {config_file} has {found} entries in `benchmarks`; it must have one, with `benchmark` and "
            "`params`. Write one file per benchmark."
        )
    name = entries[0].get("benchmark")
    if not isinstance(name, str) or ":" not in name:
        raise ValueError(
            f"`config_file` {config_file} has the `benchmark` {name!r}; it must be module:Class."
        )
    return entries[0]


class Harness:
    """The process of `vla-eval run`, and the connection on which it asks for actions.

    Args:
        python: Interpreter that has vla-eval and the benchmark.
        benchmark: Entry of `benchmarks` to run.
        python_path: Folders in which it finds the benchmark's module, besides those of the interpreter.
        observation_params: Arguments of the benchmark's class that the policy needs, if the class has them.
        shard: Number of this copy and of all copies, which share the episodes.
    """

    def __init__(
        self,
        python: str,
        benchmark: Mapping[str, Any],
        *,
        python_path: str,
        observation_params: Mapping[str, Any],
        shard: tuple[int, int],
    ) -> None:
        self.observation_params = dict(observation_params)
        # (message or None at the end of the connection, connection)
        self.messages: queue.Queue[tuple[Message | None, ServerConnection]] = queue.Queue()
        self.folder = tempfile.TemporaryDirectory(prefix="lara_vla_eval_")
        self.log = Path(self.folder.name) / "log.txt"
        self.server = serve(
            self._receive,
            "127.0.0.1",
            0,
            origins=[None],
            compression=None,
            max_size=LARGEST_MESSAGE,
            ping_interval=None,
            logger=websocket_logger,
        )
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.process, self.pipe = self._start(python, benchmark, python_path, shard)
        self.end = weakref.finalize(self, _end, self.process, self.pipe, self.server, self.folder)

    def _start(
        self, python: str, benchmark: Mapping[str, Any], python_path: str, shard: tuple[int, int]
    ) -> tuple[subprocess.Popen, int]:
        port = self.server.socket.getsockname()[1]
        config = Path(self.folder.name) / "config.yaml"  # JSON is YAML
        write_json(
            config,
            {
                "server": {"url": f"ws://127.0.0.1:{port}", "timeout": ANSWER_SECONDS},
                "output_dir": self.folder.name,
                "benchmarks": [dict(benchmark)],
            },
        )
        number, copies = shard
        arguments = ["run", "--no-docker", "--no-save", "-c", str(config)]
        if copies > 1:
            arguments += ["--shard-id", str(number), "--num-shards", str(copies)]
        path = os.pathsep.join(filter(None, [python_path, str(BENCHMARKS)]))
        # Not this process's modules: those of another Python.
        environment = {
            name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")
        }
        read, write = os.pipe()
        try:
            with self.log.open("wb") as log:  # partial by nature
                process = subprocess.Popen(  # noqa: S603  the interpreter that the user names
                    [python, "-c", RUN_HARNESS, str(read), *arguments],
                    env={**environment, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"},
                    stdin=subprocess.DEVNULL,  # simulators ask for licenses there, and would wait forever
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    pass_fds=(read,),
                    start_new_session=True,
                )
        except OSError as error:
            os.close(write)
            self.server.shutdown()
            raise ValueError(f"`python` {python} does not start ({error}). Give an interpreter.") from error
        finally:
            os.close(read)
        return process, write

    def _receive(self, connection: ServerConnection) -> None:
        """Answers greetings, and passes on everything else."""
        try:
            for data in connection:
                message = unpack_message(data)
                if message.type is MessageType.HELLO:
                    payload = make_hello_payload(
                        model_server="lerobot-eval",
                        capabilities={},
                        observation_params=self.observation_params,
                    )
                    connection.send(pack_message(Message(MessageType.HELLO, payload, message.seq)))
                else:
                    self.messages.put((message, connection))
        except (ConnectionClosed, ValueError):
            pass
        self.messages.put((None, connection))

    def next_message(self, seconds: float, field: str) -> tuple[Message, ServerConnection]:
        """Waits for a message of the harness.

        Args:
            seconds: How long.
            field: The option that sets it.

        Raises:
            ValueError: The harness has ended, or sends nothing; with the end of its log.
        """
        end = time.monotonic() + seconds
        while True:
            try:
                message, connection = self.messages.get(timeout=0.1)
            except queue.Empty:
                if self.process.poll() is not None and self.messages.empty():
                    raise ValueError(
                        f"The benchmark has ended (status {self.process.returncode}). {self.log_tail()}"
                    ) from None
                if time.monotonic() > end:
                    raise ValueError(
                        f"The benchmark has sent nothing for {seconds:g} seconds (`{field}`). If it is only slow, pass "
                        f"a larger --env.{field}. {self.log_tail()}"
                    ) from None
                continue
            if message is not None:
                return message, connection

    def log_tail(self) -> str:
        """The last lines that the harness has written."""
        lines = self.log.read_text(errors="replace").strip().splitlines()[-LOG_LINES:]
        return "The end of its log:\n" + "\n".join(lines) if lines else "It has written nothing."


def _end(process: subprocess.Popen, pipe: int, server: Server, folder: tempfile.TemporaryDirectory) -> None:
    """Ends the harness and everything it has started; called once."""
    for ending in (signal.SIGTERM, signal.SIGKILL):
        # Its own session: what the simulator has started is ended too, even if it has not waited for it.
        try:
            os.killpg(process.pid, ending)
        except ProcessLookupError:
            break
        try:
            process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            continue
    process.wait()
    # Its connections have ended with it. Closing them would start threads, which Python refuses at its own end.
    server.shutdown(close_connections=False)
    os.close(pipe)
    folder.cleanup()


class VlaEvalEnv(gym.Env):
    """A task of a benchmark, played by `vla-eval run` in another process.

    Observations are `pixels`, (H, W, 3) uint8 RGB of the only camera or a dict of them, and `agent_pos`, (state_dim,)
    float32, unless that is 0. Actions are (action_dim,), as the benchmark or `convention` has them.

    The harness ends the episode, at the latest after `episode_length` steps, and says whether it was a success; that is
    the reward of the last step, all others have 0. It does not send the last observation, so that the one before is
    repeated. `is_success` is in every `info`, and also in `info["final_info"]` when the episode ends, with the
    benchmark's other numbers in `metrics`. `task_description` is the current instruction, which may change in between.

    The harness is started at the first reset, which is inside the worker of an asynchronous vector environment.

    Args:
        task: Name of a task or suite; empty plays all tasks of the benchmark.
        python: Interpreter that has vla-eval and the benchmark.
        python_path: Folders in which it finds the benchmark's module, besides its own.
        benchmark: Its entry in a file for `vla-eval run`.
        params: Arguments of its class, which go before those in the entry.
        episodes: Episodes that there will be.
        cameras: The benchmark's camera -> feature.
        image_size: Height and width of every camera.
        state_dim: Numbers in the state; 0 for none.
        action_dim: Numbers in an action.
        convention: Name of what converts states and actions, or None.
        fps: Steps per second.
        episode_length: Steps until truncation.
        start_timeout: Seconds until the first observation.
        step_timeout: Seconds until any later one.
        shard: Number of this copy and of all copies.
    """

    def __init__(
        self,
        task: str,
        *,
        python: str,
        python_path: str,
        benchmark: Mapping[str, Any],
        params: Mapping[str, Any],
        episodes: int,
        cameras: Mapping[str, str],
        image_size: tuple[int, int],
        state_dim: int,
        action_dim: int,
        convention: str | None,
        fps: int,
        episode_length: int,
        start_timeout: float,
        step_timeout: float,
        shard: tuple[int, int] = (0, 1),
    ) -> None:
        self.task = task or benchmark["benchmark"].rpartition(":")[2]
        self.task_description = ""
        self.cameras, self.image_size = dict(cameras), image_size
        self.state_dim, self.action_dim = state_dim, action_dim
        self.python, self.python_path, self.shard = python, python_path, shard
        self.start_timeout, self.step_timeout = start_timeout, step_timeout
        self.metadata = {"render_fps": fps, "render_modes": ["rgb_array"]}
        self.render_mode = "rgb_array"
        self._max_episode_steps = episode_length
        self._convention = make_convention(convention) if convention else None
        # Every copy gets the same number, or one would run out of episodes before the others.
        copies = shard[1]
        self.episodes = -(-episodes // copies)
        self.benchmark = {
            **benchmark,
            "params": {**(benchmark.get("params") or {}), **params},
            "episodes_per_task": self.episodes * copies,
            "max_steps": episode_length,
            "mode": "sync",
            **({"tasks": [task]} if task else {}),
        }
        image = gym.spaces.Box(0, 255, (*image_size, 3), np.uint8)
        views: dict[str, gym.Space] = {self._view(feature): image for feature in self.cameras.values()}
        spaces: dict[str, gym.Space] = {"pixels": views[""] if "" in views else gym.spaces.Dict(views)}
        if state_dim:
            spaces["agent_pos"] = gym.spaces.Box(-np.inf, np.inf, (state_dim,), np.float32)
        self.observation_space = gym.spaces.Dict(spaces)
        self.action_space = gym.spaces.Box(-np.inf, np.inf, (action_dim,), np.float32)
        self._harness: Harness | None = None
        # Seq and connection of the observation that waits for an answer.
        self._asked: tuple[int, ServerConnection] | None = None
        self._observation: dict[str, Any] = {}
        self._steps = 0

    @staticmethod
    def _view(feature: str) -> str:
        """Name of a camera in `pixels`; empty for the only one."""
        return "" if feature == OBS_IMAGE else feature.removeprefix(f"{OBS_IMAGES}.")

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Waits for the first observation of the harness's next episode.

        Args:
            seed: Not used: the harness chooses the episode.
            options: Not used.

        Raises:
            ValueError: The benchmark does not start, fails or has no more episodes, or its observation does not fit.
        """
        super().reset(seed=seed)
        seconds, field = self.step_timeout, "step_timeout"
        if self._harness is None:
            seconds, field = self.start_timeout, "start_timeout"
            parameters = {"send_state": self.state_dim > 0, "send_wrist_image": len(self.cameras) > 1}
            needed = {name: True for name, value in parameters.items() if value}
            self._harness = Harness(
                self.python,
                self.benchmark,
                python_path=self.python_path,
                observation_params=needed,
                shard=self.shard,
            )
        elif self._asked is not None:
            # In the middle of an episode: the harness gives it up, and goes on to the next.
            self._send(MessageType.ERROR, {"error": "The episode was given up."})
        self._steps = 0
        while True:
            try:
                message, connection = self._harness.next_message(seconds, field)
            except ValueError as error:
                raise ValueError(
                    f"{error}\nIf all of its {self.episodes} episodes of {self.task!r} have been played, pass a larger "
                    "--env.episodes; if none has, check `task` and `config_file`."
                ) from error
            if message.type is MessageType.EPISODE_START:
                self.task_description = ""
                if self._convention is not None:
                    self._convention.reset()
            elif message.type is MessageType.OBSERVATION:
                self._observe(message, connection)
                return self._observation, {"task": self.task, "is_success": False}

    def step(self, action: np.ndarray) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        """Answers the harness with an action, and waits for what follows.

        Raises:
            ValueError: The action is not `action_dim` finite numbers, the benchmark fails, its observation does not
                fit, or it does not say whether the episode was a success.
        """
        action = np.asarray(action, dtype=np.float32)
        if action.shape != (self.action_dim,) or not np.isfinite(action).all():
            raise ValueError(f"`action` is {action}; it must be {self.action_dim} finite numbers.")
        if self._harness is None or self._asked is None:
            raise ValueError("The episode has ended or not begun. Call `reset` first.")
        if self._convention is not None:
            action = self._convention.action(action)
        self._send(MessageType.ACTION, {"actions": action})
        self._steps += 1
        message, connection = self._harness.next_message(self.step_timeout, "step_timeout")
        if message.type is MessageType.OBSERVATION:
            self._observe(message, connection)
            return self._observation, 0.0, False, False, {"task": self.task, "is_success": False}
        if message.type is not MessageType.EPISODE_END:
            raise ValueError(
                f"The benchmark failed in step {self._steps} of an episode, and has gone on to the next. "
                f"{self._harness.log_tail()}"
            )
        metrics = message.payload.get("metrics")
        if not isinstance(metrics, dict) or not isinstance(metrics.get("success"), bool | int | float):
            raise ValueError(
                f"The benchmark {self.benchmark['benchmark']} reports {metrics} at the end of an episode, without "
                "`success`: LeRobot would count every episode as one. Its `get_step_result` must return it."
            )
        success = bool(metrics["success"])
        outcome = {"task": self.task, "is_success": success}
        numbers = {
            key: float(value) for key, value in metrics.items() if isinstance(value, bool | int | float)
        }
        truncated = not success and self._steps >= self._max_episode_steps
        info = {**outcome, "final_info": {**outcome, "metrics": numbers}}
        return self._observation, float(success), not truncated, truncated, info

    def _send(self, kind: MessageType, payload: dict[str, Any]) -> None:
        """Answers the observation that waits for it."""
        assert self._asked is not None and self._harness is not None
        seq, connection = self._asked
        self._asked = None
        try:
            connection.send(pack_message(Message(kind, payload, seq)))
        except ConnectionClosed as error:
            raise ValueError(f"The benchmark has gone. {self._harness.log_tail()}") from error

    def _observe(self, message: Message, connection: ServerConnection) -> None:
        """Keeps an observation, converted to LeRobot's form."""
        self._asked = (message.seq, connection)
        sent = message.payload
        problems: list[str] = []
        images = sent.get("images")
        images = images if isinstance(images, Mapping) else {}
        views = {}
        for camera, feature in self.cameras.items():
            image = images.get(camera)
            if not isinstance(image, np.ndarray):
                problems.append(
                    f"no camera {camera!r} among {', '.join(map(str, images)) or 'none'}: --env.cameras"
                )
            elif image.dtype != np.uint8 or image.shape != (*self.image_size, 3):
                size = list(image.shape[:2])
                problems.append(
                    f"camera {camera!r} is {image.dtype} {image.shape}, not uint8 {(*self.image_size, 3)}: "
                    f"--env.image_size='{size}'"
                )
            else:
                views[self._view(feature)] = image
        state = None
        if self.state_dim:
            state = self._state(sent, problems)
        if problems:
            raise ValueError(
                f"The benchmark's observation does not fit: {'; '.join(problems)}. The policy must have been trained "
                "on the same."
            )
        task = sent.get("task_description")
        task = task if isinstance(task, str) else ""
        if task != self.task_description and self._convention is not None:
            self._convention.reset()
        self.task_description = task
        self._observation = {"pixels": views.get("", views)}
        if state is not None:
            self._observation["agent_pos"] = state

    def _state(self, sent: Mapping[str, Any], problems: list[str]) -> np.ndarray | None:
        value = sent.get("states", sent.get("state"))
        if value is None:
            problems.append("no `states` or `state`: --env.state_dim=0, or --env.params='{send_state: true}'")
            return None
        state = np.asarray(value, dtype=np.float32)
        if self._convention is not None:
            return self._convention.state(state)
        if state.shape != (self.state_dim,):
            problems.append(
                f"the state has shape {state.shape}, not ({self.state_dim},): --env.state_dim={state.size}"
            )
        return state

    def render(self) -> np.ndarray:
        """The last image (H, W, 3) uint8 of the first camera."""
        pixels = self._observation.get("pixels")
        if pixels is None:
            return np.zeros((*self.image_size, 3), np.uint8)
        return (
            pixels
            if isinstance(pixels, np.ndarray)
            else pixels[self._view(next(iter(self.cameras.values())))]
        )

    def close(self) -> None:
        """Ends the harness; the next reset starts it again with its first episode."""
        if self._harness is not None:
            self._harness.end()
        self._harness = self._asked = None
