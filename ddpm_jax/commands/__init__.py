"""What the scripts call, one module a script: from the flags' values to files."""
