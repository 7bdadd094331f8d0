// SPDX-License-Identifier: BSD-3-Clause
// Enumerations and constants that C++ and Python share. shim/ defines them; this file exports them.
#include <nanobind/nanobind.h>

#include <cstdint>
#include <initializer_list>
#include <utility>

#include "bind/bindings.hpp"
#include "ftl/bands.hpp"
#include "ftl/core_state.hpp"
#include "ftl/mover.hpp"
#include "ftl/nv_cache.hpp"
#include "nbd/nbd_connection.hpp"
#include "nvme/pdu_stream.hpp"
#include "nvme/tls_session.hpp"
#include "nvme/zns.hpp"
#include "reactor/block_device.hpp"
#include "reactor/error_class.hpp"
#include "reactor/event.hpp"
#include "reactor/io_account.hpp"
#include "vfio_user/shared_queue.hpp"

namespace nb = nanobind;

namespace ftl {
namespace {

// Binds an IntEnum, because arrays and the superblock contain the numbers.
template <typename Enum>
void bind_enum(nb::module_ &m, const char *name, std::initializer_list<std::pair<const char *, Enum>> members) {
    nb::enum_<Enum> bound(m, name, nb::is_arithmetic());
    for (const auto &[member, value] : members) {
        bound.value(member, value);
    }
}

void bind_io_enums(nb::module_ &m) {
    bind_enum<EventKind>(m, "EventKind",
                         {
                             {"IO_DONE", EventKind::io_done},
                             {"TARGET_QPAIR_CLOSED", EventKind::target_qpair_closed},
                             {"HOST_QPAIR_LOST", EventKind::host_qpair_lost},
                             {"SHARED_MEMORY_WANTED", EventKind::shared_memory_wanted},
                             {"TARGET_QPAIR_COMMAND", EventKind::target_qpair_command},
                             {"NBD_CLOSED", EventKind::nbd_closed},
                             {"SHARED_QPAIR_CLOSED", EventKind::shared_qpair_closed},
                             {"ADMIN_COMMAND", EventKind::admin_command},
                             {"BAND_NEXT_NEEDED", EventKind::band_next_needed},
                             {"BAND_CLOSED", EventKind::band_closed},
                             {"MOVE_DONE", EventKind::move_done},
                             {"BAND_RESET_DONE", EventKind::band_reset_done},
                             {"ZONE_FAULT", EventKind::zone_fault},
                             {"BLOCK_LOST", EventKind::block_lost},
                             {"DRAINED", EventKind::drained},
                             {"CORE_FAILED", EventKind::core_failed},
                             {"LOAD_DONE", EventKind::load_done},
                             {"CACHE_FAILED", EventKind::cache_failed},
                             {"FLUSH_FAILED", EventKind::flush_failed},
                             {"ZONE_FINISHED", EventKind::zone_finished},
                             {"BAND_UNREADABLE", EventKind::band_unreadable},
                             {"SCRUB_DONE", EventKind::scrub_done},
                             {"MEMBER_FAILED", EventKind::member_failed},
                             {"OVERFLOW", EventKind::overflow},
                         });
    bind_enum<Op>(m, "Op",
                  {
                      {"READ", Op::read},
                      {"WRITE", Op::write},
                      {"APPEND", Op::append},
                      {"FLUSH", Op::flush},
                      {"WRITE_ZEROES", Op::write_zeroes},
                      {"DEALLOCATE", Op::deallocate},
                      {"ZONE_SEND", Op::zone_send},
                      {"ZONE_REPORT", Op::zone_report},
                      {"COMPARE_WRITE", Op::compare_write},
                      {"WRITE_UNCORRECTABLE", Op::write_uncorrectable},
                  });
    bind_enum<zns::ZoneAction>(m, "ZoneAction",
                               {
                                   {"CLOSE", zns::ZoneAction::close},
                                   {"FINISH", zns::ZoneAction::finish},
                                   {"OPEN", zns::ZoneAction::open},
                                   {"RESET", zns::ZoneAction::reset},
                                   {"OFFLINE", zns::ZoneAction::offline},
                                   {"SET_DESCRIPTOR_EXTENSION", zns::ZoneAction::set_descriptor_extension},
                               });
    bind_enum<ErrorClass>(m, "ErrorClass",
                          {
                              {"NONE", ErrorClass::none},
                              {"GONE", ErrorClass::gone},
                              {"BUSY", ErrorClass::busy},
                              {"DOUBT", ErrorClass::doubt},
                              {"COMMAND", ErrorClass::command},
                              {"BLOCK", ErrorClass::block},
                              {"ZONE", ErrorClass::zone},
                              {"MISTAKE", ErrorClass::mistake},
                          });
}

void bind_qpair_enums(nb::module_ &m) {
    bind_enum<QpairClose>(m, "QpairClose",
                          {
                              {"NONE", QpairClose::none},
                              {"PEER_CLOSED", QpairClose::peer_closed},
                              {"SOCKET_ERROR", QpairClose::socket_error},
                              {"PROTOCOL_ERROR", QpairClose::protocol_error},
                              {"PEER_TERMINATED", QpairClose::peer_terminated},
                              {"DISCONNECTED", QpairClose::disconnected},
                              {"CLOSED", QpairClose::closed},
                              {"TIMED_OUT", QpairClose::timed_out},
                          });
    bind_enum<NbdClose>(m, "NbdClose",
                        {
                            {"NONE", NbdClose::none},
                            {"PEER_CLOSED", NbdClose::peer_closed},
                            {"SOCKET_ERROR", NbdClose::socket_error},
                            {"PROTOCOL_ERROR", NbdClose::protocol_error},
                            {"DISCONNECTED", NbdClose::disconnected},
                            {"CLOSED", NbdClose::closed},
                        });
    bind_enum<SharedFault>(m, "SharedFault",
                           {
                               {"NONE", SharedFault::none},
                               {"BROKEN_MEMORY", SharedFault::broken_memory},
                               {"INVALID_DOORBELL", SharedFault::invalid_doorbell},
                           });
    bind_enum<TlsSession::Step>(m, "TlsStep",
                                {
                                    {"DONE", TlsSession::Step::done},
                                    {"WANTS_READ", TlsSession::Step::wants_read},
                                    {"WANTS_WRITE", TlsSession::Step::wants_write},
                                    {"FAILED", TlsSession::Step::failed},
                                });
}

void bind_core_enums(nb::module_ &m) {
    bind_enum<BandState>(m, "BandState",
                         {
                             {"FREE", BandState::free},
                             {"QUEUED", BandState::queued},
                             {"OPEN", BandState::open},
                             {"CLOSING", BandState::closing},
                             {"CLOSED", BandState::closed},
                             {"MOVING", BandState::moving},
                             {"RESETTING", BandState::resetting},
                             {"FAULTED", BandState::faulted},
                         });
    bind_enum<ScrubEnd>(m, "ScrubEnd",
                        {
                            {"READ", ScrubEnd::read},
                            {"LEFT", ScrubEnd::left},
                            {"BUSY", ScrubEnd::busy},
                            {"BAD", ScrubEnd::bad},
                        });
    bind_enum<NvCache::State>(m, "NvCacheState",
                              {
                                  {"ACTIVE", NvCache::State::active},
                                  {"FAILED", NvCache::State::failed},
                                  {"OFF", NvCache::State::off},
                              });
}

}  // namespace

void bind_enums(nb::module_ &m) {
    bind_io_enums(m);
    bind_qpair_enums(m);
    bind_core_enums(m);
    m.attr("BLOCK_BYTES") = kBlockSize;
    m.attr("EAGER_REQUESTS") = kEagerRequests;
    m.attr("LATENCY_BOUNDS") = IoLatency::kBounds;
    m.attr("STREAM_USER") = kStreamUser;
    m.attr("STREAM_RELOC") = kStreamReloc;
    m.attr("ADDRESS_INVALID") = L2p::kInvalid;
    m.attr("SLOT_FLAG") = L2p::kSlotFlag;
    m.attr("TRIM_FLAG") = L2p::kTrimFlag;
    m.attr("LOST_FLAG") = L2p::kLostFlag;
    m.attr("NBD_REQUEST_BYTES_MAX") = NbdConnection::kRequestBytesMax;
    m.attr("NBD_REQUESTS") = NbdConnection::kRequests;
}

}  // namespace ftl
