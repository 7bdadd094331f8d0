"""A method for each RPC of the daemon. Made from schemas/*.json by docs/generate_client.py."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, cast

from .answers import created
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
        Hosts,
        LoadedConfig,
        OrderedScrub,
        RemovedBuffers,
        RenumberedFtl,
        SavedConfig,
        ScanResult,
        Stats,
    )
    from .parameters import StrPath
    from .settings import FtlSettings


class DaemonRpcs(ABC):
    """A method for each RPC. What is None is not sent: the daemon has its default, or keeps what is.

    Every method raises what call() does; codes are those of the FtlError where the daemon refuses. Of any RPC: -32602 a
    parameter is malformed or out of bounds, or target is not given and FTLs of several targets have that name; -32601
    the daemon does not know it.
    """

    @abstractmethod
    def call(self, method: str, params: Mapping[str, Any] | None = None) -> Any:
        """The result of any RPC, by its name and parameters as JSON has them."""

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
        """Create an FTL bdev on a zoned bdev (or on a conventional one with emulated zones) of a live SPDK target.

        name: Name of the FTL bdev to create
        base_bdev: Name of the zoned bdev used as underlying device; with zone_capacity, of a conventional one. Where it
            does not exist yet, creation is deferred until it appears
        uuid: UUID of an FTL that is on the base bdev, e.g. b286d19a-0059-4709-abcd-9f7732b1567d: load it (default:
            create a new one)
        new_uuid: UUID that the FTL gets which is created (default: a random one). With load_or_create: the FTL that is
            on the base bdev has to be that one
        load_or_create: Load the FTL that is on the base bdev; create one only where there is none, nor anything else.
            Nothing is ever erased. With uuid it has to be that one, or is created under it
        if_absent: Where the target has an FTL of that name already: no error if it is what is asked for, and one that
            names each difference if it is not
        wait: Seconds to wait for the FTL to be online where its target, base or cache bdev is not there yet, or has no
            NVMe/TCP transport; 0: not at all. The answer is JSON, and says what is waited for; the creation goes on
            waiting behind it (0 to 86400)
        force: Create a new FTL even where the base or cache bdev holds an FTL, a file system, a partition table or the
            like, which is erased
        cache: Name of the bdev to be used as a write buffer cache: 4096 B blocks, no DIF, no metadata or at least 8 B
            of interleaved metadata, at least two bands and one block (default: none)
        without_cache: With uuid: load the FTL although its nv cache is not there, and give that up; what it alone holds
            is lost
        no_data: For benchmarks, on a base bdev that need not keep anything (bdev_null): nothing is kept or verified,
            and the FTL is gone when the daemon or the base is
        allow_open_bands: Restoring after a dirty shutdown gives what can be recovered where records are damaged,
            instead of an error
        overprovisioning: Percentage of the device used for relocation, not exposed to the user (default: 20, and with
            uuid what it is) (1 to 99)
        use_append: Use zone appends instead of writes (with uuid: as it is)
        limit_crit: Percentage of writes that are the user's when at most limit_crit_threshold bands are free (default:
            0) (0 to 100)
        limit_crit_threshold: Number of free bands at which limit crit begins (default: 5, less with few bands) (0 to
            4294967295)
        limit_high: Percentage of writes that are the user's when at most limit_high_threshold bands are free (default:
            5) (0 to 100)
        limit_high_threshold: Number of free bands at which limit high begins (default: 10, less with few bands) (0 to
            4294967295)
        limit_low: Percentage of writes that are the user's when at most limit_low_threshold bands are free (default:
            40) (0 to 100)
        limit_low_threshold: Number of free bands at which limit low begins (default: 20, less with few bands) (0 to
            4294967295)
        limit_start: Percentage of writes that are the user's when at most limit_start_threshold bands are free
            (default: 100) (0 to 100)
        limit_start_threshold: Number of free bands at which defrag starts (default: 40, less with few bands) (0 to
            4294967295)
        conf: Further FTL configuration
        zone_capacity: Emulate zones of this many blocks on a conventional base bdev, as bdev_zone_block_create would (1
            to 4294967295)
        optimal_open_zones: Zones to keep open side by side: what an emulated-zones bdev reports, or what to take for a
            device that reports 0 (1 to 65535)
        num_punits: Number of zones in a band (parallel units). Default: from the bdev's optimal, max open and max
            active zones (1 to 64)
        listen_address: ADDRESS[:PORT] where the daemon exports the FTL over NVMe/TCP, e.g. 10.0.0.1:4420 or [::1]:4420
            (default: the daemon's --listen address and a free port)
        nqn: NQN of its export, in which {name} and {uuid} stand for those of the FTL, e.g.
            nqn.2026-11.com.example:{name} (default: the daemon's --nqn-template, else nqn.2026-11.io.spdk-ftl:{uuid})
        no_attach: Only export the FTL over NVMe/TCP; do not make it a bdev of the target
        hosts: NQN of a host that may connect to the export; may be given several times. Beside these only the target
            itself may, unless no_attach
        dhchap_key: File with the DH-HMAC-CHAP key of the hosts given with hosts, as of bdev_ftl_add_host
        dhchap_ctrlr_key: File with the key with which the export proves who it is to the hosts given with hosts, as of
            bdev_ftl_add_host
        psk: File with the TLS key of the hosts given with hosts, as of bdev_ftl_add_host
        secure_channel: Take hosts by TLS alone. In the clear comes nobody but the target itself, and that with
            target_psk neither
        target_psk: File with the TLS key that daemon and target share, for a target on another machine: there it must
            be under the same path, mode 0600, of the target's user. Base, cache and the bdev in the target go by TLS
            1.3 with it (default: in the clear)
        allow_any_host: Any host may connect to the export: for networks on which all are trusted
        l2p_dram_limit: With engine native: MiB of L2P in memory (default: SPDK's). Taken for scripts' sake otherwise:
            of the daemon's FTL all of the L2P is in memory (0 to 4294967295)
        core_mask: With engine native: cores of the target for its FTL. Taken for scripts' sake otherwise: the daemon
            does that work, wherever it runs
        fast_shutdown: Of the target's own FTL: metadata stay in shared memory at its halt. Taken for scripts' sake
            otherwise: the daemon's FTL writes all to the base, and a load after it reads a checkpoint
        engine: Which FTL is made: daemon, this package's, in the daemon; native, the target's own (SPDK's), on a
            conventional base bdev of at least 20 GiB and a cache of at least 5 GiB, with SPDK's options alone (default:
            daemon)
        target: RPC address of the SPDK target: the absolute path of its socket, or HOST:PORT

        Returns name and uuid of the new FTL; with if_absent, load_or_create or wait more. Where it is deferred, and
        wait is not given, there is no uuid yet, and state says so.
        Raises FtlError: -32602 a parameter, or a base or cache bdev of the wrong kind; -22 its geometry; -17 name, uuid
        or NQN is taken, or the bdev holds somebody's data, or (if_absent) the FTL that is there is another; -1 the bdev
        is claimed; -19 no such cache bdev; -95 a bdev that can't be used; -93 the target has no NVMe/TCP transport;
        -98, -99 listen_address is taken, or not of this machine; -111 the target is not running; -104, -110 it broke
        off, or did not answer; -5 base or target failed; -108 the daemon is halting. All is undone then, but the base
        may have been erased.
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
        """Load an FTL that is on its base bdev: bdev_ftl_create with its UUID.

        name: Name that the FTL bdev is to have
        base_bdev: Name of the bdev the FTL is on. Where it does not exist yet, the load is deferred until it appears
        uuid: UUID of the FTL that is on the base bdev, e.g. b286d19a-0059-4709-abcd-9f7732b1567d
        cache: Name of the bdev that holds its nv cache, where it has one
        overprovisioning: Percentage of the device used for relocation: what it was created with, or it is refused (1 to
            99)
        zone_capacity: Where zones are emulated: of how many blocks, as at its creation (1 to 4294967295)
        l2p_dram_limit: With engine native: MiB of L2P in memory (default: SPDK's). Taken for scripts' sake otherwise:
            of the daemon's FTL all of the L2P is in memory (0 to 4294967295)
        core_mask: With engine native: cores of the target for its FTL. Taken for scripts' sake otherwise: the daemon
            does that work, wherever it runs
        fast_shutdown: Of the target's own FTL: metadata stay in shared memory at its halt. Taken for scripts' sake
            otherwise: the daemon's FTL writes all to the base, and a load after it reads a checkpoint
        engine: Which FTL is loaded: daemon, one of this package's, by the daemon; native, one of the target's own
            (SPDK's), by the target (default: daemon)
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
        """Halt an FTL bdev cleanly and let go of its base and cache bdevs (what is on the media stays).

        name: Name of the FTL bdev
        force: Delete the FTL also where writes that hosts were told of stand only in its write buffer file, which
            stays: they are lost unless the FTL is loaded again before the machine goes down
        fast_shutdown: Of the target's own FTL: metadata stay in shared memory at its halt. Taken for scripts' sake
            otherwise: the daemon's FTL writes all to the base, and a load after it reads a checkpoint
        engine: Whose FTL is meant: daemon, one of the daemon's; native, one of the target's own (default: the daemon's
            of that name, and where it has none on that target, the target's own)
        target: RPC address of the SPDK target: the absolute path of its socket, or HOST:PORT. Where given, the FTL must
            be on that target

        Returns True; with force, where writes stand in its write buffer file alone, a line that says how many.
        Raises FtlError: -19 no FTL of that name; -16 it is being created or deleted, or its write buffer file has what
        is nowhere else; -28 the daemon's state directory is full: nothing was done; -5 it is deleted, but not all could
        be undone.
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
        """Halt an FTL bdev cleanly and let go of its bdevs: here the same as bdev_ftl_delete, which keeps what is on
        the media too.

        name: Name of the FTL bdev
        fast_shutdown: Of the target's own FTL: metadata stay in shared memory at its halt. Taken for scripts' sake
            otherwise: the daemon's FTL writes all to the base, and a load after it reads a checkpoint
        engine: Whose FTL is meant: daemon, one of the daemon's; native, one of the target's own (default: the daemon's
            of that name, and where it has none on that target, the target's own)
        target: RPC address of the SPDK target: the absolute path of its socket, or HOST:PORT. Where given, the FTL must
            be on that target

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
        engine: Whose FTL is meant: daemon, one of the daemon's; native, one of the target's own (default: the daemon's
            of that name, and where it has none on that target, the target's own)
        target: RPC address of the SPDK target: the absolute path of its socket, or HOST:PORT. Where given, the FTL must
            be on that target

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
        engine: Whose FTL is meant: daemon, one of the daemon's; native, one of the target's own (default: the daemon's
            of that name, and where it has none on that target, the target's own)
        target: RPC address of the SPDK target: the absolute path of its socket, or HOST:PORT. Where given, the FTL must
            be on that target

        Returns what ftl_get_devices() says of it, and its properties.
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
        """Read and verify everything that an FTL bdev has in force on its base bdev, now.

        name: Name of the FTL bdev
        stop: The scrub that was ordered goes on at the pace of conf scrub_days; where that is 0, it ends
        target: RPC address of the SPDK target: the absolute path of its socket, or HOST:PORT. Where given, the FTL must
            be on that target

        Returns at once: how the scrub stands.
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
        """Trim blocks of an FTL bdev: any range of 4 KiB blocks, which reads as zeroes from then on and durably so.

        name: Name of the FTL bdev
        lba: First block, of 4096 B (0 to 18446744073709551615)
        num_blocks: Number of blocks (1 to 18446744073709551615)
        engine: Whose FTL is meant: daemon, one of the daemon's; native, one of the target's own (default: the daemon's
            of that name, and where it has none on that target, the target's own)
        target: RPC address of the SPDK target: the absolute path of its socket, or HOST:PORT. Where given, the FTL must
            be on that target

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
        """Change a setting of an FTL bdev while it runs, and keep it.

        name: Name of the FTL bdev
        ftl_property: Name of the setting: of a limit (limit_crit, limit_crit_threshold and the like), or of a part of
            conf
        value: What it is to be, as a string: a number, a name, or true or false
        engine: Whose FTL is meant: daemon, one of the daemon's; native, one of the target's own (default: the daemon's
            of that name, and where it has none on that target, the target's own)
        target: RPC address of the SPDK target: the absolute path of its socket, or HOST:PORT. Where given, the FTL must
            be on that target

        Returns True.
        Raises FtlError: -19 no FTL of that name; -16 it is not online, or is being changed otherwise; -22, -32602 no
        such property, a value out of bounds, or one that this FTL can't have; -28 the state directory is full. Nothing
        has changed then.
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
        """Give an FTL bdev an nv cache, or another one, while it runs.

        name: Name of the FTL bdev
        cache: Name of the bdev that is to be its nv cache, as for bdev_ftl_create
        force: Also where that bdev holds somebody's data, which is erased
        target: RPC address of the SPDK target: the absolute path of its socket, or HOST:PORT. Where given, the FTL must
            be on that target

        Returns True.
        Raises FtlError: -19 no FTL, or no bdev, of that name; -16 the FTL is not online, is being changed otherwise, or
        is giving its cache up, or the bdev is claimed; -17 the bdev holds somebody's data; -22, -32602 it can't be a
        cache of this FTL; -5 it fails.
        """
        params = given(name=name, cache=cache, force=force or None, target=target)
        return cast("bool", self.call("bdev_ftl_set_cache", params))

    def bdev_ftl_remove_cache(
        self,
        *,
        name: str,
        target: StrPath | None = None,
    ) -> bool:
        """Take the nv cache of an FTL bdev away while it runs: all is durable on the base, and the cache bdev is free
        again.

        name: Name of the FTL bdev
        target: RPC address of the SPDK target: the absolute path of its socket, or HOST:PORT. Where given, the FTL must
            be on that target

        Returns True, once all that the cache held is on the base.
        Raises FtlError: -19 no FTL of that name; -16 it is not online, or is being changed otherwise.
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
        """Give an FTL bdev another name; in the target, too, so nothing may stand on it there.

        name: Name of the FTL bdev
        new_name: Its name from now on
        target: RPC address of the SPDK target: the absolute path of its socket, or HOST:PORT. Where given, the FTL must
            be on that target

        Returns True.
        Raises FtlError: -19 no FTL of that name; -16 it is not online, not attached, or its bdev is claimed; -17 the
        name is taken, here or in the target; -5 the target refuses: the message says under which name it is now.
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
        """Give the FTL on a bdev that nobody has, a copy of another, a UUID of its own.

        base_bdev: Name of the bdev that the copy is on
        uuid: UUID of the FTL that it is a copy of, as bdev_ftl_scan tells it
        new_uuid: Its UUID from now on (default: a random one)
        zone_capacity: As the FTL was created with, where its zones are emulated (default: what its superblock says) (1
            to 4294967295)
        force: Also where the FTL was in use when it was copied, so that writes which hosts had not flushed, and what
            only its nv cache had, are not in the copy
        target: RPC address of the SPDK target: the absolute path of its socket, or HOST:PORT

        Returns the FTL's uuid now, and what it was.
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
        """Give an FTL bdev all of its base bdev, which has got larger: it has more blocks from then on.

        name: Name of the FTL bdev
        force: Erase also what somebody has put where the base bdev has grown
        target: RPC address of the SPDK target: the absolute path of its socket, or HOST:PORT. Where given, the FTL must
            be on that target

        Returns its size, once it serves again.
        Raises FtlError: -19 no FTL of that name, or no base bdev; -17 somebody's data stand where the base has grown;
        -16 it is not online, is being changed, or its base does not answer; -22 the base has shrunk, or none of its new
        zones is of use; -32602 it was made with no_data, or its cache is too small; -108 the daemon is halting.
        """
        params = given(name=name, force=force or None, target=target)
        return cast("GrownFtl", self.call("bdev_ftl_grow", params))

    def bdev_ftl_add_host(
        self,
        *,
        name: str,
        host: str,
        dhchap_key: StrPath | None = None,
        dhchap_ctrlr_key: StrPath | None = None,
        psk: StrPath | None = None,
        target: StrPath | None = None,
    ) -> bool:
        """Let a host connect to the export of an FTL bdev.

        name: Name of the FTL bdev
        host: NQN of the host, as its /etc/nvme/hostnqn has it
        dhchap_key: File with the host's DH-HMAC-CHAP key, in the form DHHC-1:hh:BASE64:, of the daemon's user, mode
            0600; read each time, so a new one counts from the next connection on (default: the host need not prove who
            it is)
        dhchap_ctrlr_key: File with the key with which the export proves who it is, to hosts that want it; as
            dhchap_key, and only with that
        psk: File with the host's TLS key, in the form NVMeTLSkey-1:hh:BASE64:, of the daemon's user, mode 0600; read
            each time: the host comes by TLS 1.3 with that key, or not at all (default: it comes in the clear)
        target: RPC address of the SPDK target: the absolute path of its socket, or HOST:PORT. Where given, the FTL must
            be on that target

        Returns True, once the state file has it.
        Raises FtlError: -19 no FTL of that name; -17 it is allowed already; -32602 that is no NQN; -16 the FTL is being
        deleted, or 256 hosts are allowed; -28 the state directory is full; -108 the daemon is halting. Nothing has
        changed then.
        """
        params = given(
            name=name, host=host, dhchap_key=dhchap_key, dhchap_ctrlr_key=dhchap_ctrlr_key, psk=psk, target=target
        )
        return cast("bool", self.call("bdev_ftl_add_host", params))

    def bdev_ftl_remove_host(
        self,
        *,
        name: str,
        host: str,
        target: StrPath | None = None,
    ) -> bool:
        """Let a host not connect any more to the export of an FTL bdev, and end its connections.

        name: Name of the FTL bdev
        host: NQN of the host
        target: RPC address of the SPDK target: the absolute path of its socket, or HOST:PORT. Where given, the FTL must
            be on that target

        Returns True, once no I/O of that host is under way.
        Raises FtlError: -19 no FTL of that name, or that host is not in its list; -16 it is the target itself, or the
        FTL is being deleted; -28 the state directory is full; -108 the daemon is halting.
        """
        params = given(name=name, host=host, target=target)
        return cast("bool", self.call("bdev_ftl_remove_host", params))

    def bdev_ftl_allow_any_host(
        self,
        *,
        name: str,
        allow_any_host: bool,
        target: StrPath | None = None,
    ) -> bool:
        """Let any host connect to the export of an FTL bdev, or only those in its list.

        name: Name of the FTL bdev
        allow_any_host: Whether any host may connect. If not, connections of hosts that are not in the list end
        target: RPC address of the SPDK target: the absolute path of its socket, or HOST:PORT. Where given, the FTL must
            be on that target

        Returns True.
        Raises FtlError: -19 no FTL of that name; -16 the FTL is being deleted; -28 the state directory is full; -108
        the daemon is halting.
        """
        params = given(name=name, allow_any_host=allow_any_host, target=target)
        return cast("bool", self.call("bdev_ftl_allow_any_host", params))

    def bdev_ftl_get_hosts(
        self,
        *,
        name: str,
        target: StrPath | None = None,
    ) -> Hosts:
        """List the hosts of an FTL bdev: who may connect, who is connected, who was refused, who has left.

        name: Name of the FTL bdev
        target: RPC address of the SPDK target: the absolute path of its socket, or HOST:PORT. Where given, the FTL must
            be on that target

        Returns who may connect, who is connected, who was refused, who has left.
        Raises FtlError: -19 no FTL of that name.
        """
        params = given(name=name, target=target)
        return cast("Hosts", self.call("bdev_ftl_get_hosts", params))

    def bdev_ftl_scan(
        self,
        *,
        base_bdev: str | None = None,
        zone_capacity: int | None = None,
        target: StrPath,
    ) -> ScanResult:
        """Tell which FTLs, and nv caches of FTLs, are on a bdev that nobody has, or on all of them; reads only.

        base_bdev: Name of the bdev to look at (default: each of the target that nobody has, and those that the daemon's
            FTLs are on)
        zone_capacity: As the FTL was created with, where its zones are emulated (default: what its superblock says) (1
            to 4294967295)
        target: RPC address of the SPDK target: the absolute path of its socket, or HOST:PORT

        Returns what is on that bdev, or on each that nobody has and those of the daemon's own FTLs.
        Raises FtlError: of one bdev: -19 no such bdev; -16 it is claimed; -95 it can't hold an FTL, or holds one of
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
        """List the FTL bdevs of the daemon, deferred and failed ones included.

        name: Name of one FTL bdev (default: all)
        target: RPC address of the SPDK target: the absolute path of its socket, or HOST:PORT. Where given, only the
            FTLs of that target

        Returns one for each FTL.
        Raises FtlError: -19 there is none of the name that is given.
        """
        params = given(name=name, target=target)
        return cast("list[Device]", self.call("ftl_get_devices", params))

    def ftl_get_daemon(self) -> DaemonInfo:
        """Print what the daemon is: version, process, control socket, state directory, number of devices.

        Returns what the daemon is, and where.
        """
        return cast("DaemonInfo", self.call("ftl_get_daemon"))

    def ftl_remove_buffers(
        self,
        *,
        uuid: UUID | str | None = None,
        force: bool = False,
    ) -> RemovedBuffers:
        """Remove write buffer files that no FTL of the daemon needs.

        uuid: UUID of the FTL whose file it is (default: every file that no FTL needs)
        force: Also where the file holds writes that hosts were told of: they are lost

        Returns which files were removed.
        Raises FtlError: -19 there is no such file; -16 an FTL needs it, or it holds what hosts were told is written:
        nothing was removed.
        """
        params = given(uuid=uuid, force=force or None)
        return cast("RemovedBuffers", self.call("ftl_remove_buffers", params))

    def ftl_halt(self) -> HaltedDaemon:
        """End the daemon: halt its FTLs cleanly and take all that is theirs out of the targets, until a daemon starts
        again.

        Returns which FTLs were halted; the daemon ends behind it.
        Raises FtlError: -16 the daemon is still starting, -108 it is halting already: nothing was done. Any other error
        says what could not be halted cleanly, or not be undone; the daemon ends all the same.
        """
        return cast("HaltedDaemon", self.call("ftl_halt"))

    def ftl_save_config(
        self,
        *,
        target: StrPath | None = None,
        with_batches: bool = False,
    ) -> SavedConfig:
        """Give the configuration of a target as SPDK's save_config does, without what the daemon makes in it, and with
        what makes the FTLs.

        target: RPC address of the SPDK target: the absolute path of its socket, or HOST:PORT (default: the one that all
            FTLs of the daemon are on)
        with_batches: Calls that the target would make in batches stay so; for targets that know of them (from v26.01
            on)

        Returns as SPDK's save_config: the target's own configuration, and a section ftl.
        Raises FtlError: -32602 no target is given, and the daemon's FTLs are on several, or there is none; -16 what
        stands on an FTL is more than 256 KiB; -111, -110, -104 the target; -28 the state directory is full.
        """
        params = given(target=target, with_batches=with_batches or None)
        return cast("SavedConfig", self.call("ftl_save_config", params))

    def ftl_load_config(
        self,
        *,
        config: Sequence[Mapping[str, Any]],
        target: StrPath | None = None,
    ) -> LoadedConfig:
        """Take FTLs from a saved configuration: each is loaded as soon as its target and its base bdev are there.

        config: What ftl_save_config gave as the config of section "ftl"
        target: RPC address of the SPDK target: the absolute path of its socket, or HOST:PORT. Where given, the FTLs are
            on that one, whatever the configuration says

        Returns FTLs that the daemon has from now on, and those that it had.
        Raises FtlError: -32602 an entry is wrong; -17 a name or uuid is another FTL's; -28 the state directory is full;
        -108 the daemon is halting. Nothing is loaded then.
        """
        params = given(config=config, target=target)
        return cast("LoadedConfig", self.call("ftl_load_config", params))
