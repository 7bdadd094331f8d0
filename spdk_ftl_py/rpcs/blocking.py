"""A method for each RPC of the daemon. Made from schemas/*.json by docs/generate_client.py."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, cast

from .answers import created
from .blocking_exports import ExportRpcs
from .parameters import given

if TYPE_CHECKING:
    from uuid import UUID

    from ..results import (
        CreatedFtl,
        DaemonInfo,
        Device,
        DeviceProperties,
        GrownFtl,
        HaltedDaemon,
        LoadedConfig,
        LogSettings,
        OrderedScrub,
        RemovedBuffers,
        RenumberedFtl,
        SavedConfig,
        ScanResult,
        Stats,
    )
    from .parameters import StrPath
    from .settings import FtlSettings


class DaemonRpcs(ExportRpcs):
    """A method for each RPC. What is None is not sent: the daemon has its default, or keeps what is.

    Every method raises what call() does; the codes are those of the FtlError if the daemon refuses. Any RPC: -32602 a
    parameter is malformed or out of bounds, or target is not given and FTLs of several targets have that name; -32601
    the daemon does not know it.
    """

    def bdev_ftl_create(
        self,
        *,
        name: str,
        base_bdev: str,
        uuid: UUID | str | None = None,
        new_uuid: UUID | str | None = None,
        load_or_create: bool = False,
        if_absent: bool = False,
        wait: int | None = None,
        force: bool = False,
        cache: str | None = None,
        without_cache: bool = False,
        no_data: bool = False,
        allow_open_bands: bool = False,
        overprovisioning: int | None = None,
        use_append: bool | None = None,
        limit_crit: int | None = None,
        limit_crit_threshold: int | None = None,
        limit_high: int | None = None,
        limit_high_threshold: int | None = None,
        limit_low: int | None = None,
        limit_low_threshold: int | None = None,
        limit_start: int | None = None,
        limit_start_threshold: int | None = None,
        conf: FtlSettings | None = None,
        zone_capacity: int | None = None,
        optimal_open_zones: int | None = None,
        num_punits: int | None = None,
        listen_address: str | None = None,
        nqn: str | None = None,
        no_attach: bool = False,
        transport: Literal["auto", "tcp", "vfio-user"] | None = None,
        hosts: Sequence[str] | None = None,
        dhchap_key: StrPath | None = None,
        dhchap_ctrlr_key: StrPath | None = None,
        psk: StrPath | None = None,
        secure_channel: bool = False,
        target_psk: StrPath | None = None,
        allow_any_host: bool = False,
        l2p_dram_limit: int | None = None,
        core_mask: str | None = None,
        fast_shutdown: bool | None = None,
        engine: Literal["daemon", "native"] | None = None,
        target: StrPath,
    ) -> CreatedFtl:
        """Create an FTL bdev on a zoned bdev of a live SPDK target, or on a conventional bdev with emulated zones.

        name: Name of the FTL bdev to create
        base_bdev: Name of the base bdev: a zoned bdev, or with zone_capacity a conventional one. If it does not exist
            yet, creation is deferred until it appears
        uuid: Load the FTL with this UUID from the base bdev, e.g. b286d19a-0059-4709-abcd-9f7732b1567d (default: create
            a new FTL)
        new_uuid: UUID of the new FTL (default: a random one). With load_or_create, an FTL on the base bdev must have
            this UUID
        load_or_create: Load the FTL on the base bdev, or create one if the base bdev is empty. Never erases anything.
            With uuid, the FTL on the base bdev must have that UUID, and a new one gets it
        if_absent: If the target already has an FTL of that name: succeed if it matches the request; otherwise fail with
            an error that names each difference
        wait: Seconds to wait until the FTL is online, if its target, base or cache bdev does not exist yet, or the
            target has no NVMe/TCP transport; 0: do not wait. The result is JSON and says what is missing; the creation
            stays deferred after that time (0 to 86400)
        force: Create a new FTL even if the base or cache bdev holds an FTL, a file system, a partition table or the
            like, and erase that
        cache: Name of the bdev to use as nv cache: 4096 B blocks, no DIF, no metadata or at least 8 B of interleaved
            metadata, as large as two bands and one block at least (default: none)
        without_cache: With uuid: load the FTL without its nv cache, and give the cache up. Writes that only the cache
            holds are lost
        no_data: For benchmarks, on a base bdev that does not keep data (bdev_null): the FTL keeps and verifies nothing,
            and is gone when the daemon or the base is gone
        allow_open_bands: Restore what can be recovered after a dirty shutdown if records are damaged, instead of
            failing
        overprovisioning: Percentage of the device used for relocation, not exposed to the user (default: 20; with uuid,
            the FTL's value) (1 to 99)
        use_append: Use zone appends instead of writes (default with uuid: the FTL's value)
        limit_crit: Percentage of writes that may be user writes when at most limit_crit_threshold bands are free
            (default: 0) (0 to 100)
        limit_crit_threshold: Number of free bands at which limit crit begins (default: 0; this and the next three are 1
            more if at most 8 bands can be free on a full device) (0 to 4294967295)
        limit_high: Percentage of writes that may be user writes when at most limit_high_threshold bands are free
            (default: 5) (0 to 100)
        limit_high_threshold: Number of free bands at which limit high begins (default: 1) (0 to 4294967295)
        limit_low: Percentage of writes that may be user writes when at most limit_low_threshold bands are free
            (default: 40) (0 to 100)
        limit_low_threshold: Number of free bands at which limit low begins (default: 2; more with very small bands) (0
            to 4294967295)
        limit_start: Percentage of writes that may be user writes when at most limit_start_threshold bands are free
            (default: 100) (0 to 100)
        limit_start_threshold: Number of free bands at which defrag starts (default: 3; more with very small bands) (0
            to 4294967295)
        conf: Further FTL configuration
        zone_capacity: Emulate zones with a capacity of this many blocks on a conventional base bdev, as
            bdev_zone_block_create does (1 to 4294967295)
        optimal_open_zones: Number of zones to keep open at the same time, for a base bdev with emulated zones, or for a
            device that reports 0 (1 to 65535)
        num_punits: Number of zones in a band (parallel units). Default: derived from the bdev's optimal, max open and
            max active zones (1 to 64)
        listen_address: ADDRESS[:PORT] where the daemon exports the FTL over NVMe/TCP, e.g. 10.0.0.1:4420 or [::1]:4420
            (default: the daemon's --listen address and a free port)
        nqn: NQN of the export. {name} and {uuid} in it are replaced by those of the FTL, e.g.
            nqn.2026-11.com.example:{name} (default: the daemon's --nqn-template, else nqn.2026-11.io.spdk-ftl:{uuid})
        no_attach: Only export the FTL over NVMe/TCP; do not attach it to the target as a bdev
        transport: How the target reaches the FTL, and the daemon base and cache: by NVMe/TCP, or by vfio-user (shared
            memory), which needs a target on the daemon's machine. auto: by vfio-user if the target can use it. With
            vfio-user, an FTL that only its target uses has no TCP port (default: the daemon's transport)
        hosts: NQN of a host that may connect to the export; may be given several times. The target itself may also
            connect, unless no_attach is given
        dhchap_key: File with the DH-HMAC-CHAP key of the hosts given with hosts, as in bdev_ftl_add_host
        dhchap_ctrlr_key: File with the DH-HMAC-CHAP key that authenticates the export to the hosts given with hosts, as
            in bdev_ftl_add_host
        psk: File with the TLS key of the hosts given with hosts, as in bdev_ftl_add_host
        secure_channel: Accept hosts only by TLS. Only the target itself may connect without TLS, and with target_psk
            not even the target
        target_psk: File with the TLS key that daemon and target share, for a target on another machine. That machine
            must have it under the same path, with mode 0600, owned by the target's user. The connections for base,
            cache and the bdev in the target use TLS 1.3 with it (default: no TLS)
        allow_any_host: Let any host connect to the export, for networks on which all hosts are trusted
        l2p_dram_limit: MiB of L2P to keep in memory. With engine native the default is SPDK's; for the daemon's FTL
            this is conf l2p_dram_limit (0: all of it, the default) (0 to 4294967295)
        core_mask: With engine native: cores of the target that run its FTL. For the daemon's FTL: accepted for
            compatibility, and has no effect (the daemon does that work)
        fast_shutdown: For the target's own FTL: a halt leaves metadata in shared memory. For the daemon's FTL: accepted
            for compatibility, and has no effect (a halt writes everything to the base, and the next load reads a
            checkpoint)
        engine: Which FTL to create: daemon, this package's, which the daemon runs; native, the target's own (SPDK's),
            on a conventional base bdev of at least 20 GiB and a cache of at least 5 GiB, with SPDK's options only
            (default: daemon)
        target: RPC address of the SPDK target: the absolute path of its socket, or HOST:PORT

        Returns name and uuid of the new FTL; more with if_absent, load_or_create or wait. If the creation is deferred
        and wait is not given, there is no uuid yet, and state says so.
        Raises FtlError: -32602 a parameter, or a base or cache bdev of the wrong kind; -22 its geometry; -17 name, uuid
        or NQN is taken, or the bdev holds data, or (if_absent) the existing FTL differs; -1 the bdev is claimed; -19 no
        such cache bdev; -95 a bdev that can't be used; -93 the target has no NVMe/TCP transport; -98, -99
        listen_address is taken, or not of this machine; -111 the target is not running; -104, -110 it broke off, or did
        not answer; -5 base or target failed; -108 the daemon is halting. Everything is undone then, but the base may
        have been erased.
        """
        params = given(
            name=name,
            base_bdev=base_bdev,
            uuid=uuid,
            new_uuid=new_uuid,
            load_or_create=load_or_create or None,
            if_absent=if_absent or None,
            wait=wait,
            force=force or None,
            cache=cache,
            without_cache=without_cache or None,
            no_data=no_data or None,
            allow_open_bands=allow_open_bands or None,
            overprovisioning=overprovisioning,
            use_append=use_append,
            limit_crit=limit_crit,
            limit_crit_threshold=limit_crit_threshold,
            limit_high=limit_high,
            limit_high_threshold=limit_high_threshold,
            limit_low=limit_low,
            limit_low_threshold=limit_low_threshold,
            limit_start=limit_start,
            limit_start_threshold=limit_start_threshold,
            conf=conf,
            zone_capacity=zone_capacity,
            optimal_open_zones=optimal_open_zones,
            num_punits=num_punits,
            listen_address=listen_address,
            nqn=nqn,
            no_attach=no_attach or None,
            transport=transport,
            hosts=hosts,
            dhchap_key=dhchap_key,
            dhchap_ctrlr_key=dhchap_ctrlr_key,
            psk=psk,
            secure_channel=secure_channel or None,
            target_psk=target_psk,
            allow_any_host=allow_any_host or None,
            l2p_dram_limit=l2p_dram_limit,
            core_mask=core_mask,
            fast_shutdown=fast_shutdown,
            engine=engine,
            target=target,
        )
        return created(name, base_bdev, self.call("bdev_ftl_create", params))

    def bdev_ftl_load(
        self,
        *,
        name: str,
        base_bdev: str,
        uuid: UUID | str,
        cache: str | None = None,
        overprovisioning: int | None = None,
        zone_capacity: int | None = None,
        l2p_dram_limit: int | None = None,
        core_mask: str | None = None,
        fast_shutdown: bool | None = None,
        engine: Literal["daemon", "native"] | None = None,
        target: StrPath,
    ) -> CreatedFtl:
        """Load an existing FTL from its base bdev. The same as bdev_ftl_create with its UUID.

        name: Name of the FTL bdev to create
        base_bdev: Name of the bdev that holds the FTL. If it does not exist yet, the load is deferred until it appears
        uuid: UUID of the FTL on the base bdev, e.g. b286d19a-0059-4709-abcd-9f7732b1567d
        cache: Name of the bdev that holds its nv cache, if it has one
        overprovisioning: Percentage of the device used for relocation. Must be the value that the FTL was created with
            (1 to 99)
        zone_capacity: Capacity of an emulated zone in blocks, if zones are emulated. Must be the value that the FTL was
            created with (1 to 4294967295)
        l2p_dram_limit: MiB of L2P to keep in memory. With engine native the default is SPDK's; for the daemon's FTL
            this is conf l2p_dram_limit (default: as in its superblock) (0 to 4294967295)
        core_mask: With engine native: cores of the target that run its FTL. For the daemon's FTL: accepted for
            compatibility, and has no effect (the daemon does that work)
        fast_shutdown: For the target's own FTL: a halt leaves metadata in shared memory. For the daemon's FTL: accepted
            for compatibility, and has no effect (a halt writes everything to the base, and the next load reads a
            checkpoint)
        engine: Which FTL to load: daemon, this package's, which the daemon runs; native, the target's own (SPDK's),
            which the target runs (default: daemon)
        target: RPC address of the SPDK target: the absolute path of its socket, or HOST:PORT

        Returns as bdev_ftl_create().
        Raises FtlError: as bdev_ftl_create().
        """
        params = given(
            name=name,
            base_bdev=base_bdev,
            uuid=uuid,
            cache=cache,
            overprovisioning=overprovisioning,
            zone_capacity=zone_capacity,
            l2p_dram_limit=l2p_dram_limit,
            core_mask=core_mask,
            fast_shutdown=fast_shutdown,
            engine=engine,
            target=target,
        )
        return created(name, base_bdev, self.call("bdev_ftl_load", params))

    def bdev_ftl_delete(
        self,
        *,
        name: str,
        force: bool = False,
        fast_shutdown: bool | None = None,
        engine: Literal["daemon", "native"] | None = None,
        target: StrPath | None = None,
    ) -> bool | str:
        """Halt an FTL bdev cleanly and release its base and cache bdevs (the data on the media stays).

        name: Name of the FTL bdev
        force: Delete the FTL even if acknowledged writes are only in its write buffer file. The file stays: these
            writes are lost unless the FTL is loaded again before the machine goes down
        fast_shutdown: For the target's own FTL: a halt leaves metadata in shared memory. For the daemon's FTL: accepted
            for compatibility, and has no effect (a halt writes everything to the base, and the next load reads a
            checkpoint)
        engine: Which FTL the name refers to: daemon, the daemon's; native, the target's own (default: the daemon's, or
            the target's own if the daemon has none of that name on that target)
        target: RPC address of the SPDK target: the absolute path of its socket, or HOST:PORT. If given, the FTL must be
            on that target

        Returns True; with force, if only the write buffer file holds some writes, a line that says how many.
        Raises FtlError: -19 no FTL of that name; -16 it is being created or deleted, or only its write buffer file
        holds some writes; -28 the daemon's state directory is full: nothing was done; -5 it is deleted, but not
        everything could be undone.
        """
        params = given(name=name, force=force or None, fast_shutdown=fast_shutdown, engine=engine, target=target)
        return cast("bool | str", self.call("bdev_ftl_delete", params))

    def bdev_ftl_unload(
        self,
        *,
        name: str,
        fast_shutdown: bool | None = None,
        engine: Literal["daemon", "native"] | None = None,
        target: StrPath | None = None,
    ) -> bool | str:
        """Halt an FTL bdev cleanly and release its bdevs. The same as bdev_ftl_delete, which also keeps the data on the
        media.

        name: Name of the FTL bdev
        fast_shutdown: For the target's own FTL: a halt leaves metadata in shared memory. For the daemon's FTL: accepted
            for compatibility, and has no effect (a halt writes everything to the base, and the next load reads a
            checkpoint)
        engine: Which FTL the name refers to: daemon, the daemon's; native, the target's own (default: the daemon's, or
            the target's own if the daemon has none of that name on that target)
        target: RPC address of the SPDK target: the absolute path of its socket, or HOST:PORT. If given, the FTL must be
            on that target

        Returns as bdev_ftl_delete().
        Raises FtlError: as bdev_ftl_delete().
        """
        params = given(name=name, fast_shutdown=fast_shutdown, engine=engine, target=target)
        return cast("bool | str", self.call("bdev_ftl_unload", params))

    def bdev_ftl_get_stats(
        self,
        *,
        name: str,
        engine: Literal["daemon", "native"] | None = None,
        target: StrPath | None = None,
    ) -> Stats:
        """Print the statistics of an FTL bdev.

        name: Name of the FTL bdev
        engine: Which FTL the name refers to: daemon, the daemon's; native, the target's own (default: the daemon's, or
            the target's own if the daemon has none of that name on that target)
        target: RPC address of the SPDK target: the absolute path of its socket, or HOST:PORT. If given, the FTL must be
            on that target

        Returns counters since its creation, in blocks of 4096 bytes.
        Raises FtlError: -19 no such FTL; -16 it is deferred, being created, waiting, or failed before it had any.
        """
        params = given(name=name, engine=engine, target=target)
        return cast("Stats", self.call("bdev_ftl_get_stats", params))

    def bdev_ftl_get_properties(
        self,
        *,
        name: str,
        engine: Literal["daemon", "native"] | None = None,
        target: StrPath | None = None,
    ) -> DeviceProperties:
        """Print the properties of an FTL bdev: state, geometry, configuration, bands, export.

        name: Name of the FTL bdev
        engine: Which FTL the name refers to: daemon, the daemon's; native, the target's own (default: the daemon's, or
            the target's own if the daemon has none of that name on that target)
        target: RPC address of the SPDK target: the absolute path of its socket, or HOST:PORT. If given, the FTL must be
            on that target

        Returns the same as ftl_get_devices(), and its properties.
        Raises FtlError: -19 no such FTL.
        """
        params = given(name=name, engine=engine, target=target)
        return cast("DeviceProperties", self.call("bdev_ftl_get_properties", params))

    def bdev_ftl_scrub(
        self,
        *,
        name: str,
        stop: bool = False,
        target: StrPath | None = None,
    ) -> OrderedScrub:
        """Read and verify all valid data and metadata of an FTL bdev on its base bdev now.

        name: Name of the FTL bdev
        stop: Cancel the order: the scrub continues at the pace of conf scrub_days, or ends if that is 0
        target: RPC address of the SPDK target: the absolute path of its socket, or HOST:PORT. If given, the FTL must be
            on that target

        Returns the state of the scrub, without waiting for its end.
        Raises FtlError: -19 no FTL of that name; -16 it is not online; -32602 it was made with no_data; -108 the daemon
        is halting.
        """
        params = given(name=name, stop=stop or None, target=target)
        return cast("OrderedScrub", self.call("bdev_ftl_scrub", params))

    def bdev_ftl_unmap(
        self,
        *,
        name: str,
        lba: int,
        num_blocks: int,
        engine: Literal["daemon", "native"] | None = None,
        target: StrPath | None = None,
    ) -> bool:
        """Trim any range of 4 KiB blocks of an FTL bdev. The blocks read as zeroes from then on, durably.

        name: Name of the FTL bdev
        lba: First block to trim, in blocks of 4096 B (0 to 18446744073709551615)
        num_blocks: Number of blocks to trim (1 to 18446744073709551615)
        engine: Which FTL the name refers to: daemon, the daemon's; native, the target's own (default: the daemon's, or
            the target's own if the daemon has none of that name on that target)
        target: RPC address of the SPDK target: the absolute path of its socket, or HOST:PORT. If given, the FTL must be
            on that target

        Returns True, once the blocks read as zeroes, also after a loss of power.
        Raises FtlError: -19 no FTL of that name; -16 it is not online, or was deleted meanwhile; -32602 the range ends
        beyond the FTL; -5 the FTL could not do it, and may have done part of it.
        """
        params = given(name=name, lba=lba, num_blocks=num_blocks, engine=engine, target=target)
        return cast("bool", self.call("bdev_ftl_unmap", params))

    def bdev_ftl_set_property(
        self,
        *,
        name: str,
        ftl_property: str,
        value: str,
        engine: Literal["daemon", "native"] | None = None,
        target: StrPath | None = None,
    ) -> bool:
        """Change a setting of an FTL bdev while it runs, and save it.

        name: Name of the FTL bdev
        ftl_property: Name of the setting: a limit (limit_crit, limit_crit_threshold and the like), or a member of conf
        value: New value as a string: a number, a name, true or false
        engine: Which FTL the name refers to: daemon, the daemon's; native, the target's own (default: the daemon's, or
            the target's own if the daemon has none of that name on that target)
        target: RPC address of the SPDK target: the absolute path of its socket, or HOST:PORT. If given, the FTL must be
            on that target

        Returns True.
        Raises FtlError: -19 no FTL of that name; -16 it is not online, or another change is in progress; -22, -32602 no
        such property, a value out of bounds, or one that does not fit this FTL; -28 the state directory is full.
        Nothing has changed then.
        """
        params = given(name=name, ftl_property=ftl_property, value=value, engine=engine, target=target)
        return cast("bool", self.call("bdev_ftl_set_property", params))

    def bdev_ftl_set_cache(
        self,
        *,
        name: str,
        cache: str,
        force: bool = False,
        target: StrPath | None = None,
    ) -> bool:
        """Add an nv cache to an FTL bdev, or replace its nv cache, while it runs.

        name: Name of the FTL bdev
        cache: Name of the bdev to use as nv cache, as in bdev_ftl_create
        force: Use the bdev even if it holds data, and erase that
        target: RPC address of the SPDK target: the absolute path of its socket, or HOST:PORT. If given, the FTL must be
            on that target

        Returns True.
        Raises FtlError: -19 no FTL, or no bdev, of that name; -16 the FTL is not online, another change is in progress,
        it is giving its cache up, or the bdev is claimed; -17 the bdev holds data; -22, -32602 the FTL can't use it as
        cache; -5 it fails.
        """
        params = given(name=name, cache=cache, force=force or None, target=target)
        return cast("bool", self.call("bdev_ftl_set_cache", params))

    def bdev_ftl_remove_cache(
        self,
        *,
        name: str,
        target: StrPath | None = None,
    ) -> bool:
        """Remove the nv cache of an FTL bdev while it runs. Afterwards everything is durable on the base, and the cache
        bdev is free.

        name: Name of the FTL bdev
        target: RPC address of the SPDK target: the absolute path of its socket, or HOST:PORT. If given, the FTL must be
            on that target

        Returns True, once everything that the cache held is on the base.
        Raises FtlError: -19 no FTL of that name; -16 it is not online, or another change is in progress.
        """
        params = given(name=name, target=target)
        return cast("bool", self.call("bdev_ftl_remove_cache", params))

    def bdev_ftl_rename(
        self,
        *,
        name: str,
        new_name: str,
        target: StrPath | None = None,
    ) -> bool:
        """Rename an FTL bdev, in the target too. No other bdev of the target may be built on it.

        name: Name of the FTL bdev
        new_name: New name of the FTL bdev
        target: RPC address of the SPDK target: the absolute path of its socket, or HOST:PORT. If given, the FTL must be
            on that target

        Returns True.
        Raises FtlError: -19 no FTL of that name; -16 it is not online, not attached, or its bdev is claimed; -17 the
        name is taken, here or in the target; -5 the target refuses: the message says which name it has now.
        """
        params = given(name=name, new_name=new_name, target=target)
        return cast("bool", self.call("bdev_ftl_rename", params))

    def bdev_ftl_set_uuid(
        self,
        *,
        base_bdev: str,
        uuid: UUID | str,
        new_uuid: UUID | str | None = None,
        zone_capacity: int | None = None,
        force: bool = False,
        target: StrPath,
    ) -> RenumberedFtl:
        """Give a copy of an FTL, on an unclaimed bdev, a UUID of its own.

        base_bdev: Name of the bdev that holds the copy
        uuid: UUID of the original FTL, as printed by bdev_ftl_scan
        new_uuid: New UUID of the copy (default: a random one)
        zone_capacity: Capacity of an emulated zone in blocks, as at the creation of the FTL (default: the value in its
            superblock) (1 to 4294967295)
        force: Accept a copy of an FTL that was in use when it was copied. Such a copy lacks writes that hosts had not
            flushed, and data that only the nv cache held
        target: RPC address of the SPDK target: the absolute path of its socket, or HOST:PORT

        Returns the new and the old uuid of the FTL.
        Raises FtlError: -19 no such bdev, or no FTL of that uuid on it; -1 the bdev is claimed; -16 an FTL of that uuid
        is not online, and this may be its base; -17 the daemon has an FTL with the new uuid; -32602 new_uuid is the nil
        UUID, or the one that it has; -117 the FTL was in use when it was copied, and force is not given; -22 the device
        is not the one that the FTL was created on; -5 its newest superblock does not verify, or the bdev does not take
        a new one; -95 another format version; -111, -110, -104 the target, or the bdev does not answer.
        """
        params = given(
            base_bdev=base_bdev,
            uuid=uuid,
            new_uuid=new_uuid,
            zone_capacity=zone_capacity,
            force=force or None,
            target=target,
        )
        return cast("RenumberedFtl", self.call("bdev_ftl_set_uuid", params))

    def bdev_ftl_grow(
        self,
        *,
        name: str,
        force: bool = False,
        target: StrPath | None = None,
    ) -> GrownFtl:
        """Grow an FTL bdev onto all of its base bdev, after the base bdev has been enlarged.

        name: Name of the FTL bdev
        force: Erase data in the added part of the base bdev
        target: RPC address of the SPDK target: the absolute path of its socket, or HOST:PORT. If given, the FTL must be
            on that target

        Returns its size, once it serves again.
        Raises FtlError: -19 no FTL of that name, or no base bdev; -17 the added part of the base holds data; -16 it is
        not online, is being changed, or its base does not answer; -22 the base has shrunk, or none of its new zones is
        usable; -32602 it was made with no_data, or its cache is too small; -108 the daemon is halting.
        """
        params = given(name=name, force=force or None, target=target)
        return cast("GrownFtl", self.call("bdev_ftl_grow", params))

    def bdev_ftl_scan(
        self,
        *,
        base_bdev: str | None = None,
        zone_capacity: int | None = None,
        target: StrPath,
    ) -> ScanResult:
        """List the FTLs and nv caches of FTLs on an unclaimed bdev, or on all unclaimed bdevs. Only reads.

        base_bdev: Name of the bdev to scan (default: all unclaimed bdevs of the target, and those that the daemon's
            FTLs are on)
        zone_capacity: Capacity of an emulated zone in blocks, as at the creation of the FTL (default: the value in its
            superblock) (1 to 4294967295)
        target: RPC address of the SPDK target: the absolute path of its socket, or HOST:PORT

        Returns what is on that bdev, or on every unclaimed bdev and on those of the daemon's own FTLs.
        Raises FtlError: for one bdev: -19 no such bdev; -16 it is claimed; -95 it can't hold an FTL, or holds one of
        another format version; -111, -110, -104 the target, or the bdev, does not answer; -108 the daemon is halting.
        """
        params = given(base_bdev=base_bdev, zone_capacity=zone_capacity, target=target)
        return cast("ScanResult", self.call("bdev_ftl_scan", params))

    def ftl_get_devices(
        self,
        *,
        name: str | None = None,
        target: StrPath | None = None,
    ) -> list[Device]:
        """List the FTL bdevs of the daemon, including deferred and failed ones.

        name: Name of one FTL bdev (default: all)
        target: RPC address of the SPDK target: the absolute path of its socket, or HOST:PORT. If given, only the FTLs
            of that target

        Returns one for each FTL.
        Raises FtlError: -19 there is none with the given name.
        """
        params = given(name=name, target=target)
        return cast("list[Device]", self.call("ftl_get_devices", params))

    def ftl_get_daemon(self) -> DaemonInfo:
        """Print information on the daemon: version, process, control socket, state directory, number of devices.

        Returns version, process and paths of the daemon.
        """
        return cast("DaemonInfo", self.call("ftl_get_daemon"))

    def ftl_remove_buffers(
        self,
        *,
        uuid: UUID | str | None = None,
        force: bool = False,
    ) -> RemovedBuffers:
        """Remove write buffer files that no FTL of the daemon needs.

        uuid: UUID of the FTL that the file belongs to (default: every file that no FTL needs)
        force: Remove the file even if it holds acknowledged writes, which are then lost

        Returns which files were removed.
        Raises FtlError: -19 there is no such file; -16 an FTL needs it, or it holds acknowledged writes: nothing was
        removed.
        """
        params = given(uuid=uuid, force=force or None)
        return cast("RemovedBuffers", self.call("ftl_remove_buffers", params))

    def ftl_set_log_level(
        self,
        *,
        level: Literal["error", "warning", "info", "debug", "default"],
        subject: str | None = None,
    ) -> LogSettings:
        """Set what the daemon logs, until it ends.

        level: Log messages of this level and of more severe ones. default restores the level that the daemon was
            started with; with a subject, the subject then has the level of the whole log
        subject: Part of the log: a folder or module of the package, as the log shows it without spdk_ftl_py., such as
            ftl.gc; or audit, for the orders (default: the whole log, except subjects that have their own level)

        Returns the levels that now apply.
        Raises FtlError: -32602 there is no such subject; or the subject is audit, and the orders go to a file.
        """
        params = given(level=level, subject=subject)
        return cast("LogSettings", self.call("ftl_set_log_level", params))

    def ftl_halt(self) -> HaltedDaemon:
        """End the daemon: halt its FTLs cleanly and remove everything that it made in the targets. The next daemon
        loads the FTLs again.

        Returns the FTLs that were halted; the daemon ends after the answer.
        Raises FtlError: -16 the daemon is still starting, -108 it is halting already: nothing was done. Any other error
        says what could not be halted cleanly or undone; the daemon ends anyway.
        """
        return cast("HaltedDaemon", self.call("ftl_halt"))

    def ftl_save_config(
        self,
        *,
        target: StrPath | None = None,
        with_batches: bool = False,
    ) -> SavedConfig:
        """Print the configuration of a target like SPDK's save_config, without what the daemon made in it, and with a
        section that recreates the FTLs.

        target: RPC address of the SPDK target: the absolute path of its socket, or HOST:PORT (default: the only target
            on which the daemon has FTLs)
        with_batches: Keep batches of calls as batches, for targets that support them (v26.01 and later)

        Returns as SPDK's save_config: the target's own configuration, and a section ftl.
        Raises FtlError: -32602 no target is given, and the daemon's FTLs are on several targets, or there is none; -16
        the calls for what is built on an FTL have more than 256 KiB; -111, -110, -104 the target; -28 the state
        directory is full.
        """
        params = given(target=target, with_batches=with_batches or None)
        return cast("SavedConfig", self.call("ftl_save_config", params))

    def ftl_load_config(
        self,
        *,
        config: Sequence[Mapping[str, Any]],
        target: StrPath | None = None,
    ) -> LoadedConfig:
        """Load the FTLs of a saved configuration, each as soon as its target and base bdev exist.

        config: The config of section "ftl" from ftl_save_config
        target: RPC address of the SPDK target: the absolute path of its socket, or HOST:PORT. If given, the FTLs are on
            that target, whatever the configuration says

        Returns the FTLs that were loaded, and those that the daemon had already.
        Raises FtlError: -32602 an entry is wrong; -17 a name or uuid is another FTL's; -28 the state directory is full;
        -108 the daemon is halting. Nothing is loaded then.
        """
        params = given(config=config, target=target)
        return cast("LoadedConfig", self.call("ftl_load_config", params))
