// SPDX-License-Identifier: BSD-3-Clause
// One bind function per subject. Each is defined in the file named after its subject.
#pragma once

#include <nanobind/nanobind.h>

namespace ftl {

void bind_enums(nanobind::module_ &m);             // EventKind, Op, BandState, …, and constants; call it first
void bind_events(nanobind::module_ &m);            // Event
void bind_reactor(nanobind::module_ &m);           // crc32c, build_info, error classes, Reactor, BlockDevice, IoPort
void bind_media(nanobind::module_ &m);             // EmulatedMedia, ZonedOverlay
void bind_generated(nanobind::module_ &m);         // GeneratedZones
void bind_virtual(nanobind::module_ &m);           // Meter, Split, Delay, ErrorInjector, Striped, Mirror
void bind_qpair(nanobind::module_ &m);             // HostQpair, TargetQpair
void bind_shared_host(nanobind::module_ &m);       // SharedHostQpair, and the memory it shares with a server
void bind_tls(nanobind::module_ &m);               // TlsSession
void bind_core_config(nanobind::module_ &m);       // CoreConfig, NvCacheConfig
void bind_checkpoint_pages(nanobind::module_ &m);  // pages of the running checkpoint
void bind_core_account(nanobind::module_ &m);      // BandInfo, CoreStats, NvCacheStats, ScrubStatus
void bind_band_columns(nanobind::module_ &m);      // BandColumns
void bind_core(nanobind::module_ &m);              // FtlCore
void bind_restored_l2p(nanobind::module_ &m);      // RestoredL2p, uncovered_parts
void bind_gate(nanobind::module_ &m);              // Gate
void bind_crossing(nanobind::module_ &m);          // Crossing
void bind_load(nanobind::module_ &m);              // LoadGenerator
void bind_sim(nanobind::module_ &m);               // SimCore, SimStats, SimStop
void bind_nbd(nanobind::module_ &m);               // NbdConnection
void bind_vfio_user(nanobind::module_ &m);         // DmaMap, SharedTargetQpair, SharedAdminQueue

}  // namespace ftl
