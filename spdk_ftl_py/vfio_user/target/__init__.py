"""The server side of vfio-user: the process with the controller."""
