"""The FTL's decisions. Handed block devices and a reactor; knows nothing of targets, sockets or the daemon."""
