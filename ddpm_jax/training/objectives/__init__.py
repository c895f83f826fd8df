"""What is minimised: an objective for each kind of run, and what wraps one."""
