"""Runs as jobs: what is frozen when they are submitted, the script of a job, and the schedulers that take it."""
