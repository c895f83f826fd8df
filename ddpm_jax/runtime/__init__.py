"""What every process needs below the mathematics: files, digests, devices, other processes."""
