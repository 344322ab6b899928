"""Data sets that come as lists of files and classes: FGVC and VTAB-1k."""
