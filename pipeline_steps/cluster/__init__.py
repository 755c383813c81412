"""Whether a cluster can run the pipeline: what its jobs ask for, what Slurm says to it, what a job finds."""
