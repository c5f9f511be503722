"""The steps of a datatrove pipeline that runs a benchmark."""

from pathlib import Path
from typing import Any

from datatrove.pipeline.base import PipelineStep

from lerobot_lara.evaluation.benchmark.run import Benchmark, play_cells, report_benchmark


class _BenchmarkStep(PipelineStep):
    """A step of a benchmark.

    Args:
        benchmark: What to run.
        output_dir: Folder of the benchmark.
    """

    type = "Benchmark"

    def __init__(self, benchmark: Benchmark, output_dir: Path) -> None:
        super().__init__()
        self.benchmark = benchmark
        self.output_dir = output_dir


class PlayCells(_BenchmarkStep):
    """Plays every `world_size`-th cell, starting with that of its rank; the policies must lie in folders."""

    name = "Cells"

    def run(self, data: Any, rank: int = 0, world_size: int = 1) -> Any:
        """Plays the cells of a rank, and hands on nothing."""
        play_cells(self.benchmark, self.output_dir, rank=rank, world_size=world_size)
        return data


class ReportBenchmark(_BenchmarkStep):
    """Writes the results and the report."""

    name = "Report"

    def run(self, data: Any, rank: int = 0, world_size: int = 1) -> Any:
        """Reports, and hands on nothing."""
        report_benchmark(self.benchmark, self.output_dir)
        return data
