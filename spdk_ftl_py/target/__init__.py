"""The embedded SPDK-compatible target: ``spdk-ftl target``.

This file imports nothing: rpc_plugins/ftltgt.py loads ``target.rpc_plugin`` inside SPDK's own rpc.py, where neither the
compiled shim nor our dependencies need to exist.
"""
