"""`lara label` as it is typed: its options reach the work, and its messages and exit status say what came of it."""

import json

import pytest
from support.tiny_datasets import make_tiny_dataset

from lerobot_lara.cli import main
from lerobot_lara.labeling import run as module


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    import torch
    from support.policies import TINY_LAM

    from lerobot_lara.lam.latent_action_model import LatentActionModel

    folder = tmp_path_factory.mktemp("label")
    torch.manual_seed(0)
    LatentActionModel.from_config(**TINY_LAM).save_pretrained(folder / "lam")
    make_tiny_dataset(folder / "data", num_frames=10, action=False, state=False)
    return folder


def test_options_reach_the_work(made, tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(module, "label", lambda *args, **kwargs: calls.append((args, kwargs)) or [])
    flags = (
        "--camera=c --dtype=float32 --precision=tf32 --augmentations=3 --random-shift=2 --no-motion "
        "--codebook-size=5 --seed=6 --workers=7 --device=cuda --shard-frames=8 "
        "--overwrite --executor=slurm --tasks=9 --parallel-tasks=10 "
        "--partition=p --time=1:00 --cpus-per-task=11 --gpus-per-task=12 --mem-per-cpu-gb=13 --env-command=e"
    )
    assert main(["label", "lam", "data", "--out=out", *flags.split()]) == 0
    [(args, kwargs)] = calls
    assert args == ("lam", "data", "out")
    options, cluster = vars(kwargs.pop("options")), vars(kwargs.pop("cluster"))
    assert options == {
        "dtype": "float32",
        "augmentations": 3,
        "random_shift": 2,
        "no_motion": True,
        "codebook_size": 5,
        "codebook": None,
        "seed": 6,
        "shard_frames": 8,
        "window": 64,
        "device": "cuda",
        "precision": "tf32",
    }
    assert cluster == {
        "tasks": 9,
        "workers": 10,
        "time": "1:00",
        "partition": "p",
        "cpus_per_task": 11,
        "gpus_per_task": 12,
        "mem_per_cpu_gb": 13,
        "env_command": "e",
    }
    assert kwargs == {"camera": "c", "executor": "slurm", "workers": 7, "overwrite": True, "copy": None}
    assert main(["label", "lam", "data", "--out=out", "--codebook=labels"]) == 0
    assert calls[1][1]["options"].codebook == "labels" and calls[1][1]["executor"] == "local"


def test_it_says_what_came_of_it(made, tmp_path, capsys):
    command = ["label", str(made / "lam"), str(made / "data"), f"--out={tmp_path}/labels"]
    assert main(command) == 0
    text = capsys.readouterr().err
    assert "2 episodes, camera observation.image, frame gap 4 (0.40 s)" in text
    assert "12 rows with a latent action, 8 without (the last 4 frames of each episode)" in text
    assert main(command) == 0
    assert "is labeled already" in capsys.readouterr().err
    assert main(["label", "--check", f"{tmp_path}/labels"]) == 0
    text = capsys.readouterr().err
    assert "is whole: 20 rows, 12 with a latent action (2 x 3, no codes) of the model lam" in text
    sha256 = json.loads((tmp_path / "labels/meta/latent_labels.json").read_text())["lam"]["sha256"]
    assert sha256[:12] in text


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "`lam` is missing. Pass `lara label <lam> <dataset> --out=<folder>`"),
        (["lam"], "`dataset` is missing"),
        (["lam", "data"], "`out` is missing"),
        (["lam", "data", "--out=out", "--seed=-1"], "`seed` is -1; it must be 0 or more"),
        (["lam", "data", "--out=out", "--tasks=0"], "`tasks` is 0; it must be at least 1"),
        (["lam", "data", "--out=out", "--parallel-tasks=0"], "`workers` is 0; it must be at least 1, or -1"),
        (["lam", "data", "--out=out", "--gpus-per-task=-1"], "`gpus_per_task` is -1; it must be 0 or more"),
        (["lam", "data", "--out=out", "--augmentations=2"], "both must be 0 or both above"),
        (["--check", "nowhere"], "nowhere holds no finished latent labels"),
    ],
)
def test_what_a_user_can_mend_is_one_paragraph(flags, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["label", *flags]) == 2
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error
    assert not list(tmp_path.iterdir())


def test_codes_are_fitted_or_borrowed(capsys):
    with pytest.raises(SystemExit):
        main(["label", "lam", "data", "--out=out", "--codebook-size=2", "--codebook=x"])
    assert "not allowed with" in capsys.readouterr().err


def test_a_process_that_the_system_ends_is_no_bug(made, tmp_path, capsys, monkeypatch):
    from concurrent.futures.process import BrokenProcessPool

    class Pool:
        def __init__(self, *args, **kwargs):
            pass

        def __enter__(self):
            return self

        def __exit__(self, *args):
            return False

        def shutdown(self, **kwargs):
            pass

        def submit(self, *args):
            from concurrent.futures import Future

            future = Future()
            future.set_exception(BrokenProcessPool("terminated abruptly"))
            return future

    monkeypatch.setattr("lerobot_lara.labeling.executors.ProcessPoolExecutor", Pool)
    command = ["label", str(made / "lam"), str(made / "data"), f"--out={tmp_path}/out", "--shard-frames=1"]
    assert main([*command, "--workers=2"]) == 2
    assert "with fewer --workers" in capsys.readouterr().err
    assert main(command) == 0
