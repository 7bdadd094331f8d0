"""The RPCs of the daemon as typed methods, made from schemas/*.json by docs/generate_client.py."""
