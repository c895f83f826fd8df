"""scripts/benchmark.py: the figures of speed that the docs quote."""
