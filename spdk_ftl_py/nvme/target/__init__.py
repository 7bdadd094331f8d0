"""The target's side of NVMe/TCP: listeners, subsystems, controllers."""
