"""What is measured of a run, while it trains and afterwards; how results are kept."""
