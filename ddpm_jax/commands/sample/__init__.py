"""scripts/sample.py: samples of a trained model into files."""
