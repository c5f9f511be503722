"""The steps of a datatrove pipeline that runs a benchmark."""

from pathlib import Path
from typing import Any

from datatrove.pipeline.base import PipelineStep

from lerobot_lara.evaluation.benchmark.run import Benchmark, play_cells, report_benchmark


class PlayCells(PipelineStep):
    """Plays every `world_size`-th cell, starting with that of its rank.

    Args:
        benchmark: What to run, with policies that lie in folders.
        output_dir: Folder of the benchmark.
    """

    name = "Cells"
    type = "Benchmark"

    def __init__(self, benchmark: Benchmark, output_dir: Path) -> None:
        super().__init__()
        self.benchmark = benchmark
        self.output_dir = output_dir

    def run(self, data: Any, rank: int = 0, world_size: int = 1) -> Any:
        """Plays the cells of a rank, and hands on nothing."""
        play_cells(self.benchmark, self.output_dir, rank=rank, world_size=world_size)
        return data


class ReportBenchmark(PipelineStep):
    """Writes the results and the report.

    Args:
        benchmark: What was run.
        output_dir: Folder of the benchmark.
    """

    name = "Report"
    type = "Benchmark"

    def __init__(self, benchmark: Benchmark, output_dir: Path) -> None:
        super().__init__()
        self.benchmark = benchmark
        self.output_dir = output_dir

    def run(self, data: Any, rank: int = 0, world_size: int = 1) -> Any:
        """Reports, and hands on nothing."""
        report_benchmark(self.benchmark, self.output_dir)
        return data
