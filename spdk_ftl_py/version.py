"""The version of this package. This module imports nothing, so that any module may import it."""

__version__ = "0.1.0"
