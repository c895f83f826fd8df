"""What a person sees of a run: metrics, figures, the progress bar."""
