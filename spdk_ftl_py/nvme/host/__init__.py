"""The host side of NVMe/TCP: connect, admin commands, I/O queues for the shim."""
