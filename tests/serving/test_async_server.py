"""LeRobot's asynchronous server with this package's types, started as users start it, and LeRobot's own messages."""

import importlib
import pickle
import socket
import subprocess
import sys
import time

import grpc
import numpy as np
import pytest
from lerobot.async_inference.constants import SUPPORTED_POLICIES
from lerobot.async_inference.helpers import RemotePolicyConfig, TimedObservation
from lerobot.transport import services_pb2, services_pb2_grpc
from lerobot.transport.utils import grpc_channel_options, send_bytes_in_chunks
from support.served import save_checkpoint

FEATURES = {
    "observation.state": {"dtype": "float32", "shape": (3,), "names": ["a.pos", "b.pos", "c.pos"]},
    "observation.images.front": {
        "dtype": "image",
        "shape": (32, 32, 3),
        "names": ["height", "width", "channels"],
    },
}


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.fixture
def async_server(tmp_path_factory, monkeypatch):
    """The module, imported where LeRobot may write its folder of logs."""
    monkeypatch.chdir(tmp_path_factory.mktemp("logs"))
    return importlib.import_module("lerobot_lara.serving.async_server")


def test_own_types_are_added_once(async_server, monkeypatch):
    monkeypatch.setattr(async_server, "SUPPORTED_POLICIES", list(SUPPORTED_POLICIES))
    async_server.accept_own_policies()
    accepted = list(async_server.SUPPORTED_POLICIES)
    assert {"lara", "lara_dit", "moto_gpt", "groot_n16", "lara_smolvla", "act"} <= set(accepted)
    assert "lara_lam" not in accepted
    async_server.accept_own_policies()
    assert accepted == async_server.SUPPORTED_POLICIES


def test_a_port_in_use_is_refused(async_server, monkeypatch):
    """gRPC would share it."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        monkeypatch.setattr(sys, "argv", ["async_server", "--host=127.0.0.1", f"--port={port}"])
        with pytest.raises(ValueError, match=f"`port` {port} is in use"):
            async_server.main()


@pytest.mark.e2e
def test_a_started_server_answers_lerobots_client(tmp_path):
    checkpoint = save_checkpoint(tmp_path / "policy", cameras=("observation.images.front",))
    port = free_port()
    command = [
        sys.executable,
        "-m",
        "lerobot_lara.serving.async_server",
        "--host=127.0.0.1",
        f"--port={port}",
    ]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=tmp_path)
    try:
        with grpc.insecure_channel(f"127.0.0.1:{port}", grpc_channel_options()) as channel:
            client = services_pb2_grpc.AsyncInferenceStub(channel)
            client.Ready(services_pb2.Empty(), wait_for_ready=True, timeout=240)
            policy = RemotePolicyConfig("lara_dit", checkpoint, FEATURES, 4, "cpu")
            client.SendPolicyInstructions(services_pb2.PolicySetup(data=pickle.dumps(policy)), timeout=120)
            seen = {
                "a.pos": 0.1,
                "b.pos": 0.2,
                "c.pos": 0.3,
                "front": np.zeros((32, 32, 3), np.uint8),
                "task": "go",
            }
            observation = TimedObservation(timestamp=time.time(), timestep=0, observation=seen, must_go=True)
            parts = send_bytes_in_chunks(pickle.dumps(observation), services_pb2.Observation)
            client.SendObservations(parts, timeout=60)
            actions = pickle.loads(client.GetActions(services_pb2.Empty(), timeout=60).data)
    finally:
        process.kill()
        process.wait()
    assert len(actions) == 4
    assert all(action.get_action().shape == (4,) for action in actions), (tmp_path / "log").read_text()
