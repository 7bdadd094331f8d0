"""Deliberate defects of the FTL: what each breaks, and the crash machine that must notice (docs/testing.md).

Those of the shim are compiled in with -DSHIM_MUTATIONS=ON (shim/base/mutation.hpp) and chosen by name at run time.
Those in Python are a line of a copy of the package, replaced: where the line is no longer there, the test says so.
"""

from __future__ import annotations

from dataclasses import dataclass

Edit = tuple[str, str, str]
"""File, what stands there once, what is put in its place."""


@dataclass(frozen=True)
class Mutation:
    name: str
    breaks: str
    """In words; docs/testing.md has the same."""
    options: tuple[str, ...] = ()
    """Of the run that notices."""
    edits: tuple[Edit, ...] = ()
    """None: it is one of the shim's."""
    setting: tuple[Edit, ...] = ()
    """Edits that only make it matter, and break nothing by themselves."""
    crashes: int = 200
    """Within which it must be noticed; most are within ten."""
    world: int | None = None
    """Where it was noticed when this was written, and is looked for first: for the sake of time alone."""

    @property
    def in_shim(self) -> bool:
        return not self.edits


EMULATED_ZONES: tuple[Edit, ...] = (("torture/shape.py", "rng.random() < 0.25", "rng.random() < 1"),)
"""In every world: elsewhere zones are erased by a reset."""

LOSSES_OF_POWER: tuple[Edit, ...] = (("torture/crash.py", "Crash(_kind(rng), where,", "Crash(Kind.POWER, where,"),)
"""Each crash is one: volatile caches are lost with it, and the write buffer."""

HANDOVERS: tuple[Edit, ...] = (
    ("torture/crash.py", "Crash(_kind(rng), where,", "Crash(Kind.DAEMON, where,"),
    ("torture/crash.py", "Crash(_kind(rng), Where.SUPERBLOCK,", "Crash(Kind.TARGET, Where.SUPERBLOCK,"),
    ("torture/crash.py", "AT_SUPERBLOCK: Final = 0.25", "AT_SUPERBLOCK: Final = 0.9"),
    ("torture/world.py", "LOADS_CRASHED: Final = 0.25", "LOADS_CRASHED: Final = 0.7"),
)
"""The daemon dies, and when its next life has just written its superblock the base loses power: else one crash in a
thousand."""

COMPACT_L2P: tuple[Edit, ...] = (("torture/one_life.py", ".choice(L2P_FORMS)", '.choice(["compact"])'),)
NUMBERED_L2P: tuple[Edit, ...] = (("torture/one_life.py", ".choice(L2P_FORMS)", '.choice(["numbered"])'),)
"""Forms of the L2P that only large bases have, in every world."""
PAGED_L2P: tuple[Edit, ...] = (("torture/shape.py", "PAGED_L2P: Final = 1 / 6", "PAGED_L2P: Final = 1"),)
"""In every world."""

SCRUBS: tuple[Edit, ...] = (
    ("torture/scrubbing.py", "SCRUBBED_LIVES: Final = 0.35", "SCRUBBED_LIVES: Final = 0.9"),
    ("torture/fault.py", "ROTTEN_LIVES: Final = 0.25", "ROTTEN_LIVES: Final = 0.6"),
)
"""Scrubs in most lives, and rot in many."""

RARE_COMMANDS: tuple[Edit, ...] = (("torture/one_life.py", "RARE_WORLDS: Final = 0.3", "RARE_WORLDS: Final = 1.0"),)
"""In every world without a chain."""

READ_ONLY_ZONES: tuple[Edit, ...] = (
    ("torture/fault.py", "ZONE_EVENTS: Final = 0.5", "ZONE_EVENTS: Final = 1.0"),
    ("torture/fault.py", "rng.choices(list(cls), (3, 1, 1, 2))", "rng.choices(list(cls), (0, 0, 0, 1))"),
)
"""Faults of zones are full zones that become read-only."""

HOSTS_WAIT: tuple[Edit, ...] = (
    ("conf.py", "LIMIT_LOW: 40, LIMIT_START: 100}", "LIMIT_LOW: 5, LIMIT_START: 20}"),
    ("torture/shape.py", "rng.choice((8, 16, 32, 64)) * BLOCK_BYTES", "rng.choice((8, 8, 8, 16)) * BLOCK_BYTES"),
    ("torture/chain.py", "LOSSES: Final = (0, 0, 1, 1, 2, 4)", "LOSSES: Final = (6, 8, 8, 8, 12, 16)"),
    ("torture/chain.py", "HOST_AWAY_S: Final = (0.001, 0.005, 0.05)", "HOST_AWAY_S: Final = (0.0002, 0.0005, 0.001)"),
)
"""Hosts' writes wait for relocation, or for room in the write buffer, more often; and hosts lose their connections more
often, and are soon back."""

GROWTHS: tuple[Edit, ...] = (("torture/growing.py", "GROWING_WORLDS: Final = 0.4", "GROWING_WORLDS: Final = 1"),)
"""In every world the drive gets larger."""

COPIES: tuple[Edit, ...] = (("torture/copying.py", "COPYING_WORLDS: Final = 0.4", "COPYING_WORLDS: Final = 1"),)
"""In every world the FTL gets another uuid."""

WRONG_BITS: tuple[Edit, ...] = (
    ("torture/chain.py", "LOSSES: Final = (0, 0, 1, 1, 2, 4)", "LOSSES: Final = (4,)"),
    ("torture/chain.py", "(5, 3, 2, 1, 1 if cache else 0, 5)", "(0, 0, 0, 0, 0, 1)"),
)
"""Nothing is lost but bits."""

BITS_OF_READS: tuple[Edit, ...] = (
    *WRONG_BITS,
    ("torture/connection.py", "rng.shuffle(ends)", "ends.reverse()"),
    ("torture/workload.py", "if kind < mix.reads:", "if kind < 0.5:"),
)
"""And those on their way to hosts rather than from them."""

BUSY_CACHES: tuple[Edit, ...] = (
    ("torture/fault.py", "BUSY_LIVES: Final = 0.35", "BUSY_LIVES: Final = 1.0"),
    ("torture/fault.py", "BUSY_S: Final = (0.002, 0.02, 0.2, 2.0)", "BUSY_S: Final = (0.05,)"),
    ("torture/fault.py", "media = rng.choice(drives)", "media = drives[-1]"),
    ("torture/chain.py", "LOSSES: Final = (0, 0, 1, 1, 2, 4)", "LOSSES: Final = (4,)"),
    ("torture/chain.py", "(5, 3, 2, 1, 1 if cache else 0, 5)", "(1, 8, 1, 0, 0, 0)"),
)
"""The nv cache is busy in every life, and the base is lost meanwhile."""

DOUBTS: tuple[Edit, ...] = (
    ("torture/fault.py", "if kind < 0.45:", "if kind < 1.0:"),
    ("torture/fault.py", "ZONE_EVENTS: Final = 0.5", "ZONE_EVENTS: Final = 0.0"),
    ("torture/one_life.py", "FAULTY_LIVES: Final = 0.5", "FAULTY_LIVES: Final = 1.0"),
)
"""Most lives have a fault, and most faults are flushes with which the drive loses its volatile cache."""

BUSY_BASES: tuple[Edit, ...] = (
    ("torture/fault.py", "BUSY_LIVES: Final = 0.35", "BUSY_LIVES: Final = 1.0"),
    ("torture/chain.py", "LOSSES: Final = (0, 0, 1, 1, 2, 4)", "LOSSES: Final = (0,)"),
)
"""Drives are busy in every life, and nothing is lost: a daemon that comes back had no reason to go."""

TRIMS_NOT_APPLIED: tuple[Edit, ...] = (
    (
        "ftl/core.py",
        "            no_data=no_data,\n",
        "            no_data=no_data,\n            trim_chunk=8,\n            trim_step=0,\n",
    ),
)
"""Trims of a few blocks are applied late, too: when somebody needs it."""

MUTATIONS = (
    Mutation("halt_accepts_writes", "a halt goes on accepting writes behind its drain", world=0),
    Mutation(
        "reset_without_flush", "a band is reset while copies of its blocks are in the base's volatile cache", world=0
    ),
    Mutation("fua_ignored", "an FUA write is answered when it is in the write buffer", world=1),
    Mutation("flush_without_base_flush", "a flush does not flush the base", world=0),
    Mutation("flush_before_landing", "a flush does not wait until what was accepted is on media", world=0),
    Mutation("gc_makes_new_seq", "relocated blocks get a new seq, so that they win over what overwrote them", world=0),
    Mutation("gc_undoes_overwrites", "a relocated block takes its LBA back from a write that came meanwhile", world=0),
    Mutation("gc_drops_records", "trim records in force are not written again when their band is relocated", world=0),
    Mutation("record_cut_short", "the copy of a trim record leaves out the last LBA that refers to the record"),
    Mutation("references_miscounted", "a band counts one LBA too few that refers to a new record in it", world=6),
    Mutation("trim_not_recorded", "a trim leaves no record on media", world=0),
    Mutation(
        "unapplied_trim_not_read",
        "a block whose trim is not applied to the L2P yet still reads as before",
        setting=TRIMS_NOT_APPLIED,
        world=0,
    ),
    Mutation(
        "trim_hits_newer_write",
        "a trim that is applied late hits what was written since",
        setting=TRIMS_NOT_APPLIED,
        world=0,
    ),
    Mutation(
        "uncorrectable_not_recorded",
        "blocks that a host declares uncorrectable have no record on media",
        setting=RARE_COMMANDS,
        world=0,
    ),
    Mutation("compare_ignored", "a compare_write writes, whatever the block holds", setting=RARE_COMMANDS, world=0),
    Mutation(
        "slot_not_held", "a write is acknowledged before its slot in the write buffer file is marked as held", world=0
    ),
    Mutation(
        "trim_not_held", "a trim is acknowledged before its record in the write buffer file is marked as held", world=2
    ),
    Mutation(
        "class_not_flushed", "a flush does not wait for blocks of another class than the first", ("--classes", "8")
    ),
    Mutation(
        "class_waits_for_ever", "no other band takes the blocks of a class that has none", ("--classes", "8"), world=13
    ),
    Mutation("slot_freed_before_flush", "a slot is freed when its block is in the base's volatile cache", world=2),
    Mutation(
        "full_zone_retired",
        "a zone that the drive finished by itself is given up as one that failed",
        ("--faults",),
        crashes=500,
        world=14,
    ),
    Mutation(
        "gap_not_searched",
        "relocation looks for nothing behind a header that does not verify",
        ("--no-chain",),
        setting=(*EMULATED_ZONES, *LOSSES_OF_POWER),
        crashes=1500,
        world=53,
    ),
    Mutation(
        "cache_wraps_too_soon",
        "the nv cache overwrites what is not durable on the base",
        ("--cache", "non-vss"),
        # The write buffer is so much smaller than two bands that the ring's care hardly ever matters: a smaller cache.
        setting=(
            ("ftl/cache/nv_cache.py", "return BANDS_MIN * geometry.punits * geometry.zone_capacity + 1", "return 16"),
            ("torture/shape.py", "cache_blocks=2 * punits * capacity + rng.choice((1, 2, 40))", "cache_blocks=24"),
        ),
        world=5,
    ),
    Mutation(
        "lost_core_answers", "a core that is lost does not say so, and the gate answers for it", ("--chain",), world=0
    ),
    Mutation(
        "h2c_offset_ignored", "a target puts each piece of a write's data to its beginning", ("--chain",), world=0
    ),
    Mutation(
        "write_digest_ignored",
        "a target takes data whose digest is wrong",
        ("--chain",),
        setting=WRONG_BITS,
        crashes=500,
        world=6,
    ),
    Mutation(
        "read_digest_ignored",
        "a host takes data whose digest is wrong",
        ("--chain",),
        setting=BITS_OF_READS,
        crashes=500,
        world=3,
    ),
    Mutation(
        "lent_slot_freed",
        "a slot that a host's write was received into is freed while the nv cache holds that write back",
        ("--chain", "--faults", "--cache", "non-vss"),
        setting=BUSY_CACHES,
        crashes=500,
        world=26,
    ),
    Mutation(
        "busy_flush_doubted",
        "a flush that a busy base refuses counts as one of which nobody knows what it has cost",
        ("--chain", "--faults"),
        setting=BUSY_BASES,
        crashes=500,
        world=0,
    ),
    Mutation("busy_gives_zone_up", "a zone is given up when the base is too busy to write it", ("--faults",), world=0),
    Mutation("busy_loses_block", "what the base is too busy to read is lost", ("--faults",), world=1),
    Mutation(
        "busy_reset_fails", "a zone counts as failed when the base is too busy to reset it", ("--faults",), world=0
    ),
    Mutation("busy_read_fails", "a host's read fails when the base is busy", ("--faults",), world=1),
    Mutation("busy_flush_fails", "a flush fails when the base is busy", ("--faults",), world=0),
    Mutation(
        "failed_flush_repeated",
        "a flush of which nobody knows what it has cost is repeated",
        ("--faults",),
        setting=DOUBTS,
        world=0,
    ),
    Mutation(
        "flushes_overlap",
        "core and nv cache send a flush while another one is in flight",
        ("--cache", "non-vss"),
        world=0,
    ),
    Mutation(
        "superblock_flushes_beside",
        "a superblock is flushed beside the core, which knows of a flush that failed too late",
        ("--faults",),
        edits=(("ftl/device.py", "self._superblock.flush = self.flush_base", "self._superblock.flush = port.flush"),),
        world=4,
    ),
    Mutation(
        "final_flush_told",
        "a flush that failed for good is told to who waits for it, and no more",
        ("--faults",),
        setting=DOUBTS,
        world=0,
    ),
    Mutation(
        "busy_cache_given_up",
        "the nv cache is given up when it is busy",
        ("--faults", "--cache", "vss"),
        crashes=500,
        world=0,
    ),
    Mutation("cache_acks_early", "a write completes before the nv cache has it", ("--cache", "vss"), world=0),
    Mutation(
        "cache_not_flushed",
        "a write completes when it is in the nv cache's volatile cache",
        ("--cache", "vss"),
        crashes=600,
        world=19,
    ),
    Mutation(
        "crc_not_checked",
        "a load takes blocks for whole without looking (torn ones: with emulated zones)",
        edits=(
            (
                "ftl/load/merge.py",
                "whole[run] = crcs(wanted) == crc[run]",
                "whole[run] = True",
            ),
        ),
        world=0,
    ),
    Mutation(
        "older_seq_wins",
        "a load takes the block with the smallest seq",
        world=0,
    ),
    Mutation(
        "l2p_tag_kept",
        "an LBA that was trimmed keeps the tag of the record, whatever is written to it (compact L2P)",
        setting=COMPACT_L2P,
    ),
    Mutation(
        "l2p_page_not_written",
        "a page of the L2P leaves memory without its changes (paged L2P)",
        setting=PAGED_L2P,
    ),
    Mutation(
        "l2p_zone_too_low",
        "the number of a block in a late zone gives an address in the hole of the zone before (numbered blocks)",
        setting=NUMBERED_L2P,
    ),
    Mutation(
        "walked_end_too_low",
        "a load says that a zone ends before its last block, where relocation then ends",
        edits=(
            (
                "ftl/load/zone_walk.py",
                "zone.end = zone.written if known.any() else min(last, end)",
                "zone.end = min(last, end) - 1",
            ),
        ),
        world=0,
    ),
    Mutation(
        "growth_empties_nothing",
        "a growth takes the zones that the base has got as they are",
        edits=(("ftl/load/grow.py", "    if not found.zones_to_take:\n", "    if True:\n"),),
        setting=GROWTHS,
        world=11,
    ),
    Mutation(
        "growth_not_told",
        "hosts write to what a growth has brought before a superblock tells of it",
        edits=(
            (
                "ftl/loading.py",
                "for _ in range(2 if grown else 1)",
                "for _ in range(0 if grown else 1)",
            ),
        ),
        setting=GROWTHS,
        world=15,
    ),
    Mutation(
        "copy_has_records_of_its_own",
        "what a copy writes has its own uuid, which the next load does not look for",
        edits=(("ftl/core.py", "media_uuid=(media_uuid or uuid).bytes", "media_uuid=uuid.bytes"),),
        setting=COPIES,
        world=0,
    ),
    Mutation(
        "copy_told_once",
        "a load of a copy writes the superblock of what it was copied from",
        edits=(
            (
                "ftl/loading.py",
                "        uuid,\n        media_uuid=found.superblock.media_uuid,\n",
                "        found.superblock.media_uuid,\n",
            ),
        ),
        setting=COPIES,
        world=0,
    ),
    Mutation(
        "seq_starts_again",
        "after a load seqs go on from what the superblock says, behind what is on media",
        edits=(
            (
                "ftl/load/merge.py",
                'next_seq=max(seen + 1, counter(self._superblock, "next_seq")) + self._hidden_seqs(),',
                'next_seq=counter(self._superblock, "next_seq"),',
            ),
        ),
        world=0,
    ),
    Mutation(
        "trim_records_not_read",
        "a load ignores trim records",
        edits=(("ftl/load/merge.py", "records = _records(self._current)", "records = _records([])"),),
        world=0,
    ),
    Mutation(
        "walk_ends_early",
        "a load takes the last header of a zone for the end of what is in force there",
        edits=(
            (
                "ftl/load/zone_walk.py",
                "headers[-1][0] + headers[-1][1].block_count",
                "headers[-1][0] + 1",
            ),
        ),
        world=0,
    ),
    Mutation(
        "read_only_unnoticed",
        "what zone reports say of read-only and offline zones is ignored",
        ("--faults",),
        crashes=500,
        edits=(("ftl/gc/zone_watch.py", "self._core.fault_zone(band.index, punit, status)", "False"),),
        setting=READ_ONLY_ZONES,
        world=6,
    ),
    Mutation(
        "summary_of_an_earlier_life",
        "a load trusts a summary that is older than the headers of its zone",
        setting=EMULATED_ZONES,
        edits=(
            (
                "ftl/load/zone_walk.py",
                "            whole = None\n            known[:] = False\n        bad =",
                "        bad =",
            ),
        ),
        world=0,
    ),
    Mutation(
        "records_not_in_summary",
        "the summary of a zone that a load has walked leaves out the headers of records",
        setting=EMULATED_ZONES,
        edits=(
            (
                "ftl/load/summaries.py",
                'used["flags"][self._offsets(self.record_headers)] = SUMMARY_FLAG_HEADER | KIND_TRIM',
                "pass",
            ),
        ),
        world=0,
    ),
    Mutation(
        "halt_without_drain",
        "a clean halt leaves behind what is in the write buffer",
        edits=(
            (
                "ftl/device.py",
                "                await self._drain()\n                await self.checkpointing.ended()",
                "                await self.checkpointing.ended()",
            ),
        ),
        world=2,
    ),
    Mutation(
        "stale_checkpoint",
        "a load from an L2P checkpoint does not make it stale, and the next one does not look whether it still fits",
        edits=(
            (
                "ftl/loading.py",
                "for _ in range(2 if grown else 1)",
                "for _ in range(0 if found.from_checkpoint else 1)",
            ),
            ("ftl/load/restore.py", "[zones[index].start for index in checkpoint.zones] + used", "used"),
            ("ftl/load/checkpoint.py", "if sequential and zones[zone].usable and was != written:", "if False:"),
        ),
        world=3,
    ),
    Mutation(
        "any_buffer_file",
        "a load takes a write buffer file of another life of the FTL",
        edits=(
            (
                "ftl/load/write_buffer_file.py",
                "        path = self.path(incarnation)\n        try:",
                '        path = next(self.directory.glob(f"{self.uuid}.*.wbuf"), self.path(incarnation))\n        try:',
            ),
        ),
        world=10,
    ),
    Mutation(
        "buffer_file_removed_early",
        "a load removes the write buffer file before its superblock makes the next one count",
        setting=HANDOVERS,
        crashes=500,
        edits=(
            (
                "ftl/loading.py",
                "    for _ in range(2 if grown else 1):\n",
                "    if files is not None:\n        files.remove(but=incarnation)\n"
                "    for _ in range(2 if grown else 1):\n",
            ),
        ),
        world=2,
    ),
    Mutation(
        "superblock_without_flush",
        "a load does not flush the base before its superblock makes the old write buffer file count no more",
        setting=HANDOVERS,
        crashes=500,
        edits=(
            (
                "ftl/loading.py",
                '    await port.flush()\n    report("l2p", 0.0)\n    if found',
                '    report("l2p", 0.0)\n    if found',
            ),
        ),
        world=1,
    ),
    Mutation(
        "loss_untold",
        "a load without the write buffer file does not say that something may be lost",
        edits=(("ftl/loading.py", "alarm = on_lossy if lossy else None", "alarm = None"),),
        world=0,
    ),
    Mutation(
        "cache_not_read",
        "a load after a crash does not look into the nv cache",
        ("--cache", "non-vss"),
        edits=(("ftl/cache/nv_cache_keeper.py", "return None if superblock.clean else held", "return None"),),
        world=0,
    ),
    Mutation(
        "read_not_verified", "what a host reads is not compared with its CRC", ("--faults",), crashes=500, world=1
    ),
    Mutation(
        "second_read_not_verified",
        "what is read again because it did not match is taken as it is",
        ("--faults",),
        crashes=500,
        world=10,
    ),
    Mutation(
        "scrub_not_verified",
        "the scrub takes what it reads as it is",
        ("--faults",),
        setting=SCRUBS,
        crashes=500,
        world=10,
    ),
    Mutation(
        "scrub_skips_bands",
        "the scrub reads every other band",
        ("--faults",),
        edits=(
            (
                "ftl/gc/scrub.py",
                'self._queue = numbers[np.argsort(bands.seq[numbers], kind="stable")]',
                'self._queue = numbers[np.argsort(bands.seq[numbers], kind="stable")][::2]',
            ),
            ("ftl/gc/scrub.py", "            self._line_up()\n        skipped", "            pass\n        skipped"),
        ),
        setting=SCRUBS,
        crashes=500,
        world=37,
    ),
    Mutation("old_crc_kept", "a write leaves in memory the CRC of what it overwrites", world=0),
    Mutation(
        "rotten_block_forgotten",
        "a block that relocation finds rotten is trimmed instead of lost",
        ("--faults",),
        crashes=500,
        world=10,
    ),
    Mutation(
        "checkpoint_crcs_ignored",
        "a load from an L2P checkpoint does not take its CRCs",
        edits=(
            (
                "ftl/load/checkpoint.py",
                "            self._table.put_crcs(first, entries, count)\n",
                "            pass\n",
            ),
        ),
        world=0,
    ),
    Mutation(
        "turn_loses_ties",
        "an entry of the running checkpoint counts as older than any row that is read",
        ("--checkpoint",),
        edits=(
            ("ftl/load/running.py", "self._table.assume(max(1, self._turn.next_seq - 1))", "self._table.assume(0)"),
        ),
        world=1,
    ),
    Mutation(
        "turn_without_drain",
        "a turn of the running checkpoint counts before what its pages saw in the write buffer is durable",
        ("--checkpoint",),
        edits=(("ftl/gc/checkpointing.py", "        await self._drained()\n", ""),),
        crashes=1000,
        world=48,
    ),
    Mutation(
        "turn_seq_too_high",
        "a turn of the running checkpoint takes what was written after it began for older than its pages",
        ("--checkpoint",),
        edits=(
            (
                "ftl/load/running.py",
                "self._next_seq = self._core.part_seqs()",
                "self._next_seq = self._core.part_seqs() + 100",
            ),
        ),
        world=1,
    ),
    Mutation(
        "turn_has_open_bands",
        "a turn of the running checkpoint takes bands for closed that are still written",
        ("--checkpoint",),
        edits=(("ftl/load/running.py", "(CLOSED, FAULTED, MOVING)", '(CLOSED, FAULTED, MOVING, "open")'),),
        world=1,
    ),
    Mutation(
        "turn_bands_not_compared",
        "a load takes bands for unchanged that were reset and opened again since the turn",
        ("--checkpoint",),
        edits=(
            (
                "ftl/load/running.py",
                '(records["band_seq"] == self._bands["seq"][numbers])',
                '(records["band_seq"] > 0)',
            ),
        ),
        world=1,
    ),
    Mutation(
        "cancel_ignored",
        "a core executes what waits in it for a host that has lost its connection, and has sent it again",
        ("--chain",),
        setting=HOSTS_WAIT,
        world=20,
    ),
    Mutation(
        "durability_not_crossed",
        "a crossing answers flushes before the core has them, and does not pass FUA on",
        ("--cores", "2"),
        world=2,
    ),
    Mutation(
        "lease_of_another",
        "a write is received into a lease that the next write gets, too",
        ("--cores", "2", "--chain"),
        world=0,
    ),
)

RECORDS = {
    "command_not_recorded": "a command over vfio-user is not recorded before the head of its queue moves past it",
    "completion_not_noted": "a completion over vfio-user is written before it is noted",
    "record_cleared_early": "a command over vfio-user is taken out of the record before its completion is written",
    "noted_executed_again": "a command over vfio-user is executed again although its completion was noted",
}
"""Of the shim, too. Torture does not notice them, but tests/unit/shim/vfio_user/test_record_steps.py does: it kills the
process that serves a queue at every instruction."""
FORGERY = Mutation(
    "media_uuid_public",
    "records have the uuid of the FTL, which hosts know: what they write may pass for a header",
    edits=(("ftl/creation.py", "media_uuid = media_uuid or uuid4()", "media_uuid = media_uuid or uuid"),),
)
"""Torture's hosts forge nothing, and would have to guess where a block is put, as test_forged_headers.py does."""
CROSSING_MUTATIONS: dict[str, str] = {
    "crossed_completion_lost": "the completion of a flush does not reach the other reactor's issuer",
    "lease_given_twice": "two writes are received into the same slot of the write buffer",
    "old_lease_kept": "a front keeps leases of a core that the gate no longer has, or that needs the room",
}
"""Of crossings between reactors: test_crossing_mutations.py."""
