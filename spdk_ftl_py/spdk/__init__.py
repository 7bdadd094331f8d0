"""The live SPDK target: RPC client, bdev queries, claims, exports and attach. Version differences end here."""
