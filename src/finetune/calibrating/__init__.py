"""The engine's settings, chosen by measurement before TensorFlow starts."""
