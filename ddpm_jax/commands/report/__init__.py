"""scripts/report.py: runs as one HTML page."""
