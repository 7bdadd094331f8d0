"""The client side of vfio-user: the process with the memory."""
