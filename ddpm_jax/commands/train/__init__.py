"""scripts/train.py: start, resume, watch, finish."""
