"""scripts/prepare_data.py: TFDS data sets for training without TensorFlow."""
