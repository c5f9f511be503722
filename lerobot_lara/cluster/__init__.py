"""Work that is spread over the tasks of Slurm or Ray."""
