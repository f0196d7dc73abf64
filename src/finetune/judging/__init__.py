"""How good a model is, and what that has to be compared with."""
