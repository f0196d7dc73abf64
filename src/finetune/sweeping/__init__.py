"""Sweeps: many trials by one command, each a run and a process of its own."""
