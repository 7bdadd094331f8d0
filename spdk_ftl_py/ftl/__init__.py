"""The FTL's decisions. This package works on block devices and a reactor; it knows nothing of targets, sockets or the
daemon."""
