"""The embedded target's own RPCs for SPDK's rpc.py, straight from a checkout:

PYTHONPATH=rpc_plugins scripts/rpc.py --plugin ftltgt ftltgt_zns_create Nvme0n1 --size 2G --zone-size 16M
"""

from spdk_ftl_py.target.rpc_plugin import spdk_rpc_plugin_initialize

__all__ = ["spdk_rpc_plugin_initialize"]
