"""SPDK JSON-RPC plugin: a flash translation layer for zoned bdevs of a live SPDK target."""

from .errors import FtlError
from .plugin import spdk_rpc_plugin_initialize
from .version import __version__

__all__ = ["FtlError", "__version__", "spdk_rpc_plugin_initialize"]
