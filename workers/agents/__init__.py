"""Agents' bodies: how they are found, called, and how what they return becomes an outcome."""
