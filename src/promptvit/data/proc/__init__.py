"""Drawn data: generated from seeds, versioned, never stored."""
