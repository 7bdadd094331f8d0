"""Asyncio around the shim's reactors, and starting and ending things."""
