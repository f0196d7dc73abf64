"""The frozen part of a model, computed once for each example: what that may be, where it ends, and where it is kept."""
