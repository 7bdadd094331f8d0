"""Of this package; below everything else, so that any module may ask for it."""

__version__ = "0.1.0"
