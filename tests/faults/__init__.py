"""The fault harness: real processes and servers, broken in every way we could think of, while tasks go through them."""
