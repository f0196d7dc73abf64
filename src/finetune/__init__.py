"""Transfer learning for trained TensorFlow-1 models: cut the graph at a tensor, put a new head on, train on."""

__version__ = "0.1.0"
