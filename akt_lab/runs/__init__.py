"""From settings to a folder: jobs, training, checkpoints, sweeps and what they leave behind."""
