"""Slurm without Slurm: what would be submitted, and what its tasks do."""

from pathlib import Path

import pytest


def capture_scripts(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, tuple]]:
    """Returns a list that gets the scripts that would be given to Slurm, with their further arguments."""
    from datatrove.executor import slurm

    launched: list[tuple[str, tuple]] = []

    def launch(script: str, retriever: object, *args: str) -> int:
        launched.append((script, args))
        return len(launched)

    monkeypatch.setattr(slurm, "launch_slurm_job", launch)
    return launched


def run_task(logs: Path, rank: int, tasks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a Slurm task does: datatrove's pipeline, as it was stored for it in its folder of logs."""
    import dill
    from datatrove.executor import LocalPipelineExecutor

    with (logs / "executor.pik").open("rb") as file:
        stored = dill.load(file)
    assert stored.tasks == tasks
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", str(rank))
    # It would ask Slurm.
    monkeypatch.setattr(type(stored), "get_distributed_env", LocalPipelineExecutor.get_distributed_env)
    stored._run_for_rank(rank)
    monkeypatch.delenv("SLURM_ARRAY_TASK_ID")
