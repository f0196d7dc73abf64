"""What a source is, where it can be cut, and its picture."""
