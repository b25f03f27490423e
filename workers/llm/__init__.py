"""LLM agents."""
