"""Team `diagnostics`: small honest agents for trying an installation, for load and for tests."""
