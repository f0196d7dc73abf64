"""What a run leaves, and how it keeps it."""
