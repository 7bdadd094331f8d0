"""SPDK JSON-RPC plugin: a flash translation layer for zoned bdevs of a live SPDK target."""
