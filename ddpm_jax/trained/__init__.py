"""From a workdir to a trained model, and from it to images."""
