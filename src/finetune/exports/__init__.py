"""A finished pair in the formats of other programs, each checked against it."""
