"""From features to answers."""
