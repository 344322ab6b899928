"""Getting data sets: addresses and checksums, download, unpacking."""
