"""A step, its numerics, and the course of steps over a run."""
