"""A flash translation layer for zoned bdevs of a live SPDK target: a plugin of SPDK's rpc.py, and a library.

The names in ``__all__`` are for scripts (docs/python.md). Each is imported when it is first used, because rpc.py
imports this package for each of its commands. Every other name of this package may change.
"""

from typing import TYPE_CHECKING

from .version import __version__

if TYPE_CHECKING:
    from .async_client import AsyncDaemonClient
    from .client import DaemonClient
    from .conf import FtlConf, Limit
    from .errors import (
        AuthenticationError,
        BusyError,
        ConfError,
        DaemonError,
        ExistsError,
        FtlError,
        GeometryError,
        MediaError,
        NoDaemonError,
        NotFoundError,
        NvmeStatusError,
        ParameterError,
        PathError,
        ProtocolError,
        UnsupportedError,
    )
    from .ftl.policy.interface import AgeClasses, BandTable, Placement, Policy, Reclaimed, Surroundings
    from .library.block_device import BlockDevice
    from .library.controller import Controller, Namespace
    from .library.emulated_media import EmulatedMedia
    from .library.ftl_device import FtlDevice
    from .library.nvmf_target import Export, NvmfTarget
    from .plugin import spdk_rpc_plugin_initialize
    from .runtime.reactor import ReactorLoop
else:
    # Hidden from type checkers, which would otherwise accept any name of this module.
    _MODULES = {
        "async_client": ("AsyncDaemonClient",),
        "client": ("DaemonClient",),
        "conf": ("FtlConf", "Limit"),
        "errors": (
            *("AuthenticationError", "BusyError", "ConfError", "DaemonError", "ExistsError", "FtlError"),
            *("GeometryError", "MediaError", "NoDaemonError", "NotFoundError", "NvmeStatusError", "ParameterError"),
            *("PathError", "ProtocolError", "UnsupportedError"),
        ),
        "ftl.policy.interface": ("AgeClasses", "BandTable", "Placement", "Policy", "Reclaimed", "Surroundings"),
        "library.block_device": ("BlockDevice",),
        "library.controller": ("Controller", "Namespace"),
        "library.emulated_media": ("EmulatedMedia",),
        "library.ftl_device": ("FtlDevice",),
        "library.nvmf_target": ("Export", "NvmfTarget"),
        "plugin": ("spdk_rpc_plugin_initialize",),
        "runtime.reactor": ("ReactorLoop",),
    }
    _MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}

    def __getattr__(name: str) -> object:
        module = _MODULE_OF.get(name)
        if module is None:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        import importlib

        value = globals()[name] = getattr(importlib.import_module(f"{__name__}.{module}"), name)
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})


__all__ = [
    "AgeClasses",
    "AsyncDaemonClient",
    "AuthenticationError",
    "BandTable",
    "BlockDevice",
    "BusyError",
    "ConfError",
    "Controller",
    "DaemonClient",
    "DaemonError",
    "EmulatedMedia",
    "ExistsError",
    "Export",
    "FtlConf",
    "FtlDevice",
    "FtlError",
    "GeometryError",
    "Limit",
    "MediaError",
    "Namespace",
    "NoDaemonError",
    "NotFoundError",
    "NvmeStatusError",
    "NvmfTarget",
    "ParameterError",
    "PathError",
    "Placement",
    "Policy",
    "ProtocolError",
    "ReactorLoop",
    "Reclaimed",
    "Surroundings",
    "UnsupportedError",
    "__version__",
    "spdk_rpc_plugin_initialize",
]
