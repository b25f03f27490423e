"""Recorded traffic of model providers through our model layer: `make replay`, and a part of it in `make test`."""
