"""Examples, the step, the loop around it, and how good the model is."""
