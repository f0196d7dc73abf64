"""What lies on no disk of this machine: `gs://…`, and whatever else TensorFlow has a file system for."""
