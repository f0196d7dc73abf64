"""One run from its first value to its last pair, in rooms that work on one session."""
