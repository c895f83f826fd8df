"""scripts/evaluate.py: measures of a trained model."""
