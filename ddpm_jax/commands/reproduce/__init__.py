"""scripts/reproduce.py: a run trained again from its manifest."""
