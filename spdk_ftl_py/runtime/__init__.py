"""Asyncio around the shim's reactors, and helpers for start and end."""
