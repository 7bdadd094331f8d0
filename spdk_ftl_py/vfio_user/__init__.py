"""vfio-user: an NVMe controller of one process, for a client in another, by shared memory."""
