"""scripts/checkpoint.py: the checkpoints of a run."""
