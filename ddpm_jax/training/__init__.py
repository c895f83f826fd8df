"""Training: the state, the pure step, the mesh, checkpoints and the loop."""
