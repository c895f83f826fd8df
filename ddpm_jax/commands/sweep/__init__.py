"""scripts/sweep.py: many runs from one file, killed and resumed at will, and their results."""
