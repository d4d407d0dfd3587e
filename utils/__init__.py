"""What both scripts use: options, run folders, checkpoints, metrics, plots."""
