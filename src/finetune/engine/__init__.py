"""Pure functions from a cut graph and a head, and the proof that they are the source's."""
