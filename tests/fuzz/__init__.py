"""Fuzzing of the HTTP API by its own description: `make fuzz`."""
