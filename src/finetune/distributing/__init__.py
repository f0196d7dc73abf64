"""Several workers that train together."""
