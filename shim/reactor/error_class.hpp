// SPDX-License-Identifier: BSD-3-Clause
// What an error of a block device means for the sender of the I/O. This is the only such table, for C++ and Python.
// docs/durability.md, "Errors of the base", describes how the FTL handles each class. Sources: NVM Express Base 2.0,
// figures "Status Code"; ZNS Command Set 1.1.
#pragma once

#include "reactor/block_device.hpp"

namespace ftl {

enum class ErrorClass : uint8_t {
    none,
    gone,     // the whole device: nothing more is sent to it
    busy,     // the same command may succeed later
    doubt,    // a flush that may have begun failed: cached data may be lost, whatever a later flush answers
    command,  // refused for good; says nothing about the data on media
    block,    // media errors of these blocks
    zone,     // the zone does not accept the command any more, or never did
    mistake,  // a sender that follows the rules never gets this
};

// True if a retry would get the same answer. Devices of this package set DNR with such errors.
[[nodiscard]] constexpr bool dnr(Status status) noexcept {
    switch (status) {
        case status::invalid_opcode:
        case status::invalid_field:
        case status::invalid_namespace:
        case status::sgl_segment:
        case status::sgl_count:
        case status::sgl_data_length:
        case status::sgl_type:
        case status::prp_offset:
        case status::lba_out_of_range:
        case status::capacity_exceeded:
        case status::zone_boundary:
        case status::zone_full:
        case status::zone_read_only:
        case status::zone_offline:
        case status::zone_invalid_write:
        case status::invalid_zone_transition:
        case status::write_fault:
        case status::atomic_write_unit:
        case status::overlapping_range:
        case status::compare_failure:
            return true;
        default:
            return false;
    }
}

// True for errors that are worth a retry, but if they persist may concern only a block or a zone.
[[nodiscard]] constexpr bool perhaps_media(Status status) noexcept {
    switch (status) {
        case status::internal_error:
        case status::data_transfer_error:
        case status::transient_transport_error:
        case status::capacity_exceeded:
        case status::too_many_active:
        case status::too_many_open:
            return true;
        default:
            return false;
    }
}

// do_not_retry: the device's DNR bit (Io::do_not_retry). It makes an error final that otherwise would be worth a retry.
[[nodiscard]] constexpr ErrorClass error_class(Op op, Status status, bool do_not_retry) noexcept {
    switch (status) {
        case status::ok:
            return ErrorClass::none;

        case status::power_loss:
        case status::invalid_namespace:  // the bdev was deleted in the target
        case status::path_error:         // set by the shim: the connection is gone
        case status::ana_persistent_loss:
            return ErrorClass::gone;

        case status::internal_error:  // SPDK's answer to any failure in a bdev, without DNR
        case status::data_transfer_error:
        case status::too_many_active:  // finishing a zone makes room
        case status::too_many_open:
            if (op == Op::flush) {
                return ErrorClass::doubt;
            }
            return do_not_retry ? ErrorClass::command : ErrorClass::busy;

        case status::capacity_exceeded:  // thin-provisioned base: space may become free, whatever its DNR says
            return op == Op::flush ? ErrorClass::doubt : ErrorClass::busy;

        // A flush that ends with one of these was not executed: the cache is unchanged.
        case status::aborted:
        case status::aborted_sq_deleted:  // SPDK passes on that the drive's controller was reset
        case status::aborted_preempted:
        case status::write_protected:
        case status::interrupted:
        case status::transient_transport_error:
        case status::media_not_ready:
        case status::namespace_not_ready:
        case status::reservation_conflict:
        case status::path_internal:
        case status::ana_inaccessible:
        case status::ana_transition:
        case status::controller_path_error:
        case status::host_aborted:
            return do_not_retry ? ErrorClass::command : ErrorClass::busy;

        case status::zone_boundary:
        case status::zone_full:
        case status::zone_read_only:
        case status::zone_offline:
        case status::zone_invalid_write:
        case status::invalid_zone_transition:
            return op == Op::flush ? ErrorClass::doubt : ErrorClass::zone;

        default:
            break;
    }
    switch (status >> 8) {
        case 0:
        case 1:
            return ErrorClass::mistake;
        case 2:
            return op == Op::flush ? ErrorClass::doubt : ErrorClass::block;
        default:
            return op == Op::flush ? ErrorClass::doubt : ErrorClass::command;
    }
}

// This error alone says that the whole device is gone: it does not answer, has no power, or is busy in a way that no
// single block or zone explains.
[[nodiscard]] constexpr bool base_gone(Status status) noexcept {
    const ErrorClass kind = error_class(Op::read, status, false);
    return kind == ErrorClass::gone || (kind == ErrorClass::busy && !perhaps_media(status));
}

// How long the FTL waits for a busy device, and how often it repeats the I/O meanwhile.
inline constexpr uint64_t kBusyDelayMinNs = 1'000'000;
inline constexpr uint64_t kBusyDelayMaxNs = 100'000'000;
inline constexpr uint64_t kBusyDelayGrowth = 2;
inline constexpr uint64_t kBusyPatienceNs = 60'000'000'000;      // for the FTL's own I/O
inline constexpr uint64_t kBusyReadPatienceNs = 20'000'000'000;  // for a host's read: hosts give up after 30 s
// Patience for the next I/O of a kind, after one has waited in vain for the full time while others succeeded. The error
// may be one of the medium.
inline constexpr uint64_t kBusyPatienceLeftNs = 1'000'000'000;
// If finishing a zone makes room for another zone, it does so within this time.
inline constexpr uint64_t kZonesPatienceNs = 1'000'000'000;

[[nodiscard]] constexpr bool limits_zones(Status status) noexcept {
    return status == status::too_many_active || status == status::too_many_open;
}

}  // namespace ftl
