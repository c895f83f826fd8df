"""What the samplers and likelihoods must show, measured: for the tests and for the report."""
