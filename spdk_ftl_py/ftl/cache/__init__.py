"""The nv cache: checks, scrub, headers, recovery, its use by a device."""
