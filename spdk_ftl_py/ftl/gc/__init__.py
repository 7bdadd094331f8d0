"""Bands to open and to relocate, limits, spare zones."""
