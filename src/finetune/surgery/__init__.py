"""A graph cut, refused or made fit for training; protobuf in, protobuf out."""
