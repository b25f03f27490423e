"""Built-in teams: each a folder with `team.toml` and the Python functions that are its agents."""
