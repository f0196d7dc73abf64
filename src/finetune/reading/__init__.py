"""The files of a source: graphs, checkpoints, and what each variable starts from. Nothing here runs TensorFlow."""
