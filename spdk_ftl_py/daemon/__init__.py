"""The daemon: registry of FTL devices, their life cycle, state file, and JSON-RPC over HTTP on a unix socket."""
