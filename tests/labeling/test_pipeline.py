"""datatrove's own executors run the steps: on one machine for real, with Ray as far as it goes without Ray."""

import inspect
import multiprocessing

import pytest
from support.kills import file_contents
from support.tiny_datasets import make_tiny_dataset

from lerobot_lara.cluster import executors
from lerobot_lara.cluster.executors import ClusterOptions
from lerobot_lara.data.latent_labels.labels import LatentLabels
from lerobot_lara.labeling import run as module
from lerobot_lara.labeling.plan import LabelOptions
from lerobot_lara.labeling.run import label
from lerobot_lara.labeling.shards import forget

from .test_label import save_lam

datatrove = pytest.importorskip("datatrove", reason="needs the extra `label`")
OPTIONS = LabelOptions(shard_frames=8, codebook_size=2)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pipeline")
    root = make_tiny_dataset(folder / "data", num_episodes=5, num_frames=8, action=False, state=False)
    return save_lam(folder / "lam"), str(root)


@pytest.fixture
def planned(data, tmp_path, monkeypatch):
    """A folder with a plan and no labels, as tasks of a cluster find it."""
    with monkeypatch.context() as patch:
        patch.setattr(module, "label_on_cluster", lambda *args, **kwargs: None)
        [result] = label(*data, tmp_path / "labels", options=OPTIONS, executor="slurm")
    assert result.manifest is None
    yield result.folder
    forget()


def steps(folder, shards=5):
    from lerobot_lara.labeling.pipeline import FinishLabels, LabelShards

    return LabelShards(str(folder), shards), FinishLabels(str(folder))


def test_ranks_share_the_shards_and_the_result_is_that_of_one_machine(data, planned, tmp_path):
    label_step, finish = steps(planned)
    for rank in (2, 0, 1):
        assert label_step.run("data", rank=rank, world_size=3) == "data"
        done = {path.name for path in planned.rglob("*.parquet")}
        assert {f"file-{shard:03d}.parquet" for shard in range(rank, 5, 3)} <= done
    finish.run(None)
    label(*data, tmp_path / "local", options=OPTIONS)
    assert file_contents(planned) == file_contents(tmp_path / "local")


def test_the_last_step_refuses_what_is_not_whole(planned):
    label_step, finish = steps(planned)
    label_step.run(None, rank=0, world_size=2)
    with pytest.raises(ValueError, match=r"file-001.parquet is missing \(2 of 5 files\)"):
        finish.run(None)
    with pytest.raises(ValueError, match="holds no finished latent labels"):
        LatentLabels(planned)


def test_a_repeated_task_labels_nothing_again(planned, monkeypatch):
    label_step, _ = steps(planned)
    label_step.run(None, rank=0, world_size=1)
    before = {path: path.stat().st_mtime_ns for path in planned.rglob("*.parquet")}
    monkeypatch.setattr("lerobot_lara.labeling.shards.label_episode", None)
    for world_size in (1, 2, 7):
        for rank in range(world_size):
            label_step.run(None, rank=rank, world_size=world_size)
    assert {path: path.stat().st_mtime_ns for path in planned.rglob("*.parquet")} == before


@pytest.mark.slow
def test_datatroves_local_executor_gives_the_same_bytes(data, planned, tmp_path):
    from datatrove.executor import LocalPipelineExecutor

    label_step, finish = steps(planned)
    LocalPipelineExecutor([label_step], tasks=3, workers=1, logging_dir=str(planned / "logs/label")).run()
    LocalPipelineExecutor([finish], tasks=1, logging_dir=str(planned / "logs/finish")).run()
    label(*data, tmp_path / "local", options=OPTIONS)
    found = {name: digest for name, digest in file_contents(planned).items() if not name.startswith("logs/")}
    assert found == file_contents(tmp_path / "local")
    label(*data, planned, options=OPTIONS)  # logs are no foreign files
    assert not [each for each in multiprocessing.active_children() if not each.daemon]


def test_ray_gets_the_tasks_and_the_labels_are_finished_here(data, tmp_path, monkeypatch):
    """With executors that are made as datatrove's are, but run at once."""
    from datatrove.executor import RayPipelineExecutor

    made, make = [], inspect.signature(RayPipelineExecutor.__init__)

    class Executor:
        def __init__(self, *args, **kwargs):
            self.given = make.bind(self, *args, **kwargs).arguments
            made.append(self.given)

        def run(self):
            for rank in range(self.given["tasks"]):
                for step in self.given["pipeline"]:
                    step.run(None, rank=rank, world_size=self.given["tasks"])

    monkeypatch.setattr("datatrove.executor.RayPipelineExecutor", Executor)
    monkeypatch.setattr(executors, "_is_installed", lambda name: True)
    cluster = ClusterOptions(tasks=3, workers=2, gpus_per_task=1, mem_per_cpu_gb=8)
    [result] = label(*data, tmp_path / "ray", options=OPTIONS, executor="ray", cluster=cluster)
    forget()
    assert result.manifest.valid == 20
    [given] = made
    assert (given["tasks"], given["workers"], given["gpus_per_task"], given["mem_per_cpu_gb"]) == (3, 2, 1, 8)
    assert not given["skip_completed"]
    label(*data, tmp_path / "local", options=OPTIONS)
    assert file_contents(tmp_path / "ray") == file_contents(tmp_path / "local")


def test_a_folder_of_this_environment_with_spaces_is_quoted(data, tmp_path, monkeypatch):
    from datatrove.executor import slurm

    scripts = []
    monkeypatch.setattr(
        slurm, "launch_slurm_job", lambda script, *args: scripts.append(script) or len(scripts)
    )
    monkeypatch.setattr(executors.sys, "executable", "/my envs/bin/python")
    options = ClusterOptions(tasks=50, partition="p")
    label(*data, tmp_path / "out", options=OPTIONS, executor="slurm", cluster=options)
    assert "export PATH='/my envs/bin':$PATH" in scripts[0]
    assert "--array=0-4\n" in scripts[0], "no more tasks than files"
