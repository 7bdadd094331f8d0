// SPDX-License-Identifier: BSD-3-Clause
// Resets bands: a flush first, so that all data moved out of the band is durable elsewhere, then one zone after
// another.
#include "base/mutation.hpp"
#include "ftl/core.hpp"
#include "nvme/zns.hpp"

namespace ftl {

// False: the band is in use, or some of its content is in force.
bool FtlCore::begin_reset(uint32_t number) noexcept {
    const Band &now = state_.bands[number];
    if ((now.state != BandState::closed && now.state != BandState::faulted && now.state != BandState::free) ||
        now.in_force() || now.settling > 0) {
        return false;
    }
    if (state_.failed != status::ok) {
        return true;
    }
    Band &band = state_.bands.change(number);
    band.state = BandState::resetting;
    band.reset_zone = 0;
    band.reset_failed_zone = 0;
    band.reset_status = status::ok;
    band.io.op = Op::flush;
    band.io.complete = on_reset_flush;
    // If all zones failed before anything was written, the band holds nothing that is needed. The reset must not wait
    // for the write buffer either, because the write buffer may be waiting for this band.
    if (band.written == 0 || MUTATED(reset_without_flush)) {
        resets_.push_back(number);
        return true;
    }
    flush(band.io, true);
    return true;
}

void FtlCore::on_reset_flush(Io &io) noexcept {
    auto &core = *static_cast<FtlCore *>(io.owner);
    const auto band = static_cast<uint32_t>(io.owner_data);
    if (core.state_.failed != status::ok) {
        return;
    }
    if (io.status != status::ok) {
        // The moved data is not durable elsewhere, so the band is not reset. The order may be given again.
        core.state_.bands.change(band).state = core.state_.closed_state(band);
        core.state_.emit(EventKind::band_reset_done, band, io.status, ~uint64_t{0});
        return;
    }
    core.resets_.push_back(band);
}

uint32_t FtlCore::run_resets() noexcept {
    uint32_t work = 0;
    for (size_t i = 0; i < resets_.size();) {
        const uint32_t band = resets_[i];
        if (state_.bands[band].readers > 0) {
            ++i;
            continue;
        }
        resets_[i] = resets_.back();
        resets_.pop_back();
        next_reset(band);
        ++work;
    }
    return work;
}

void FtlCore::next_reset(uint32_t number) noexcept {
    Band &band = state_.bands.change(number);
    while (band.reset_zone < state_.punits && state_.zone(number, band.reset_zone).start == kNoZone) {
        ++band.reset_zone;
    }
    if (band.reset_zone < state_.punits) {
        band.io.op = Op::zone_send;
        band.io.zone_action = zns::code(zns::ZoneAction::reset);
        band.io.zone_all = false;
        band.io.lba = state_.zone(number, band.reset_zone).start;
        band.io.block_count = 0;
        band.io.iov_count = 0;
        band.io.complete = on_zone_reset;
        state_.submit_base(band.io);
        return;
    }
    band.state = BandState::free;
    band.unreadable = false;
    band.written = 0;
    band.given_up = 0;
    band.record_headers = 0;
    state_.emit(EventKind::band_reset_done, number, band.reset_status, band.reset_failed_zone);
}

void FtlCore::on_zone_reset(Io &io) noexcept {
    auto &core = *static_cast<FtlCore *>(io.owner);
    const auto number = static_cast<uint32_t>(io.owner_data);
    Band &band = core.state_.bands.change(number);
    if (core.state_.came_back(band.io, MUTATED(busy_reset_fails) ? 0 : kBusyPatienceNs) != Answer::final) {
        return;
    }
    if (error_class(band.io) == ErrorClass::busy && !MUTATED(busy_reset_fails)) {
        // The wait for the zone is over. To find out whether the zone or the whole base is busy, send a flush, which
        // does no harm.
        band.reset_refused = io.status;
        band.io.op = Op::flush;
        band.io.complete = on_reset_probe;
        core.state_.submit_base(band.io);
        return;
    }
    core.zone_was_reset(number, io.status);
}

void FtlCore::on_reset_probe(Io &io) noexcept {
    auto &core = *static_cast<FtlCore *>(io.owner);
    const auto number = static_cast<uint32_t>(io.owner_data);
    Band &band = core.state_.bands.change(number);
    if (core.state_.came_back(band.io, kBusyPatienceLeftNs) == Answer::final) {
        core.zone_was_reset(number, band.reset_refused);
    }
}

void FtlCore::zone_was_reset(uint32_t number, Status status) noexcept {
    Band &band = state_.bands.change(number);
    Zone &zone = state_.change_zone(number, band.reset_zone);
    zone.write_pointer = 0;
    zone.faulted = status != status::ok;
    if (zone.faulted && band.reset_status == status::ok) {
        band.reset_status = status;
        band.reset_failed_zone = band.reset_zone;
    }
    ++state_.stats.zone_resets;
    ++band.reset_zone;
    next_reset(number);
}

}  // namespace ftl
