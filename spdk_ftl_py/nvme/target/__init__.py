"""The target side of NVMe/TCP: listeners, subsystems, controllers."""
