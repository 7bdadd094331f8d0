// SPDX-License-Identifier: BSD-3-Clause
// Events that the shim sends to Python: their kinds, and the names of the three numbers of each kind.
#pragma once

#include <cstdint>

namespace ftl {

enum class EventKind : uint32_t {
    io_done = 1,               // IoPort, ReadList
    target_qpair_closed = 2,   // TargetQpair
    host_qpair_lost = 3,       // HostQpair
    target_qpair_command = 4,  // TargetQpair: commands for Python, until take_command() returns none
    nbd_closed = 5,            // NbdConnection
    shared_qpair_closed = 6,   // SharedTargetQpair, SharedAdminQueue
    admin_command = 7,         // SharedAdminQueue: commands for Python, until take() returns none
    shared_memory_wanted = 8,  // SharedHostQpair: take_wanted()
    // FtlCore, from here on
    band_next_needed = 10,
    band_closed = 11,
    move_done = 12,
    band_reset_done = 13,
    zone_fault = 14,
    block_lost = 15,
    drained = 16,
    core_failed = 17,   // the core fails every I/O from now on
    load_done = 18,     // LoadGenerator
    cache_failed = 20,  // nv cache: writes wait until forget_cache()
    flush_failed = 21,
    zone_finished = 24,    // by the base, before the zone was full; the zone has not failed
    band_unreadable = 30,  // a host or the scrub could not read valid data of the band
    scrub_done = 31,       // with any result
    member_failed = 40,    // Mirror: nothing more is sent to that member
    overflow = 255,        // events were dropped
};

// Fixed size; kept in a bounded ring, drained by Reactor.events().
struct Event {
    EventKind kind;
    uint32_t source;  // id of the poller that sent it
    uint64_t a, b, c;
};

// A name for one of an event's numbers. Python reads events by these names alone (shim/bind/events.cpp).
struct EventField {
    EventKind kind;
    uint64_t Event::*number;
    const char *name;
};

inline constexpr EventField kEventFields[] = {
    {EventKind::io_done, &Event::a, "ticket"},
    {EventKind::io_done, &Event::b, "status"},
    {EventKind::io_done, &Event::c, "result"},              // of a failed I/O: whether the device set DNR
    {EventKind::target_qpair_closed, &Event::a, "reason"},  // QpairClose
    {EventKind::target_qpair_closed, &Event::b, "detail"},  // an errno, or the FES of a TermReq
    {EventKind::host_qpair_lost, &Event::a, "reason"},
    {EventKind::host_qpair_lost, &Event::b, "detail"},
    {EventKind::nbd_closed, &Event::a, "reason"},           // NbdClose
    {EventKind::nbd_closed, &Event::b, "detail"},           // an errno
    {EventKind::shared_qpair_closed, &Event::a, "fault"},   // SharedFault
    {EventKind::shared_qpair_closed, &Event::b, "detail"},  // the value of an invalid doorbell
    {EventKind::band_next_needed, &Event::a, "stream"},
    {EventKind::band_next_needed, &Event::b, "filling_band"},  // ~0: the stream has none
    {EventKind::band_closed, &Event::a, "band"},
    {EventKind::move_done, &Event::a, "band"},
    {EventKind::move_done, &Event::b, "moved_blocks"},
    {EventKind::move_done, &Event::c, "lost_blocks"},  // by CRC or read errors
    {EventKind::band_reset_done, &Event::a, "band"},
    {EventKind::band_reset_done, &Event::b, "status"},        // of the first zone that failed, or of the flush
    {EventKind::band_reset_done, &Event::c, "failed_punit"},  // ~0: the flush failed, and nothing was reset
    {EventKind::zone_fault, &Event::a, "band"},
    {EventKind::zone_fault, &Event::b, "punit"},
    {EventKind::zone_fault, &Event::c, "status"},
    {EventKind::block_lost, &Event::a, "lba"},
    {EventKind::block_lost, &Event::b, "address"},
    {EventKind::block_lost, &Event::c, "status"},
    {EventKind::drained, &Event::a, "ticket"},
    {EventKind::drained, &Event::b, "status"},  // of the flush
    {EventKind::core_failed, &Event::a, "status"},
    {EventKind::core_failed, &Event::b, "by_flush"},  // a failed flush; data in the base's cache may be lost
    {EventKind::load_done, &Event::a, "done_blocks"},
    {EventKind::load_done, &Event::b, "errors"},
    {EventKind::cache_failed, &Event::a, "status"},
    {EventKind::flush_failed, &Event::a, "status"},
    {EventKind::flush_failed, &Event::b, "failures"},  // consecutive failures while the write buffer wanted a flush
    {EventKind::zone_finished, &Event::a, "band"},
    {EventKind::zone_finished, &Event::b, "punit"},
    {EventKind::band_unreadable, &Event::a, "band"},
    {EventKind::band_unreadable, &Event::b, "address"},
    {EventKind::band_unreadable, &Event::c, "status"},
    {EventKind::scrub_done, &Event::a, "band"},
    {EventKind::member_failed, &Event::a, "member"},
    {EventKind::member_failed, &Event::b, "status"},
    {EventKind::overflow, &Event::a, "first_newer_source"},  // sources from this id on were added later
};

}  // namespace ftl
