"""Whole jobs built from the library: the demo, and using a finished run."""
