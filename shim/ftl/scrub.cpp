// SPDX-License-Identifier: BSD-3-Clause
// Movers' scrub: reads and verifies the blocks in force of a band, without moving them.
#include <algorithm>
#include <utility>

#include "base/mutation.hpp"
#include "ftl/mover.hpp"

namespace ftl {

using layout::BatchKind;
using layout::BlockEntry;

bool Movers::start_scrub(uint32_t number, bool stays) noexcept {
    Mover &mover = movers_.back();
    if (mover.phase != Phase::free) {
        return false;
    }
    const Band &band = state_.bands[number];
    mover.phase = Phase::next_zone;
    mover.band = number;
    mover.band_seq = band.seq;
    mover.punit = ~0U;
    mover.closed = band.state == BandState::closed || band.state == BandState::faulted;
    mover.stays = stays;
    // For a band that is being written, nobody knows how many blocks to expect, but the band ends at its write
    // pointers.
    mover.again = !mover.closed;
    mover.second = false;
    mover.busy = mover.damage = status::ok;
    mover.probe = Probe{};
    scrub_stopped_ = false;
    scrub_found_ = ScrubResult{scrub_result_.number, number};
    state_.scrubbed = Scrubbed{number};
    return true;
}

void Movers::set_scrub_rate(uint32_t blocks_per_s) noexcept {
    constexpr uint64_t second_ns = 1'000'000'000;
    scrub_ns_per_block_ = blocks_per_s == 0 ? 0 : second_ns / blocks_per_s;
    scrub_next_ns_ = std::min(scrub_next_ns_, state_.now + kRunBlocks * scrub_ns_per_block_);
}

void Movers::stop_scrub() noexcept {
    scrub_stopped_ = true;
}

void Movers::charge(uint32_t block_count) noexcept {
    scrub_next_ns_ = std::max(scrub_next_ns_, state_.now) + block_count * scrub_ns_per_block_;
}

uint32_t Movers::run_scrub() noexcept {
    Mover &mover = movers_.back();
    if (mover.phase == Phase::free) {
        return 0;
    }
    if (scrub_over(mover)) {
        if (mover.reads > 0 || (mover.phase == Phase::reading && !mover.read_done)) {
            return 0;
        }
        finish_scrub(mover, mover.busy != status::ok ? ScrubEnd::busy : ScrubEnd::left);
        return 1;
    }
    return state_.now < scrub_next_ns_ ? 0 : run(mover);
}

// Like CoreState::read_came_back(), but the core does not fail: Probe::refused is set instead. When the scrub must end,
// for example because the band is to be reset, it does not wait for a busy base.
Answer Movers::scrub_came_back(const Mover &mover, BaseIo &io, Probe &probe, bool verdict) noexcept {
    if (!scrub_over(mover)) {
        return state_.read_came_back(io, probe, scrub_patience_, verdict, false);
    }
    const Answer answer = state_.came_back(io, 0);
    if (answer == Answer::final) {
        probe.refused = probe.number > 0 || error_class(io) == ErrorClass::busy;
        if (probe.number > 0) {
            CoreState::restore(io, probe);
            io.status = status::namespace_not_ready;  // the data read was that of a probe, not of the block
            io.do_not_retry = false;
        }
        probe.again = false;
    }
    return answer;
}

bool Movers::scrub_over(const Mover &mover) const noexcept {
    const Band &band = state_.bands[mover.band];
    return scrub_stopped_ || mover.busy != status::ok || !can_be_scrubbed(band.state, mover.stays) ||
           band.seq != mover.band_seq;
}

void Movers::finish_scrub(Mover &mover, ScrubEnd end) noexcept {
    mover.phase = Phase::free;
    state_.scrubbed = Scrubbed{};
    scrub_result_ = scrub_found_;
    scrub_result_.end = scrub_result_.status != status::ok ? ScrubEnd::bad : end;
    ++scrub_result_.number;
    state_.emit(EventKind::scrub_done, mover.band);
}

// Runs when the scrub has gone through all zones.
void Movers::end_of_look(Mover &mover) noexcept {
    if (mover.busy != status::ok) {
        finish_scrub(mover, ScrubEnd::busy);
        return;
    }
    const bool all_seen = !mover.closed || state_.scrubbed.seen >= state_.bands[mover.band].valid;
    if (all_seen && mover.damage == status::ok) {
        finish_scrub(mover, ScrubEnd::read);
        return;
    }
    if (!mover.second) {
        mover.second = mover.again = true;
        mover.damage = status::ok;
        mover.again_at_ns = state_.now + kMetadataAgainNs;
        mover.phase = Phase::pause;
        state_.scrubbed = Scrubbed{mover.band};
        return;
    }
    const bool found = mover.damage != status::ok;
    const uint64_t address = found ? mover.damage_at : state_.zone(mover.band, 0).start;
    found_bad(mover, address, found ? mover.damage : status::guard_check, state_.stats.scrub_bad_metadata);
    finish_scrub(mover, ScrubEnd::bad);
}

void Movers::found_bad(Mover &mover, uint64_t address, Status status, uint64_t &counter) noexcept {
    ++counter;
    if (scrub_found_.status == status::ok) {
        scrub_found_.status = status;
        scrub_found_.address = address;
    }
    state_.unreadable(mover.band, address, status);
}

// Like scan_window().
bool Movers::scrub_window(Mover &mover) noexcept {
    const uint64_t start = state_.zone(mover.band, mover.punit).start;
    const uint32_t run_max = std::min(kRunBlocks, state_.base->info().max_io_blocks);
    // Host I/O goes first, and so do moves that free bands for it.
    const uint32_t reads_max = state_.throttle.limits() || state_.demand.user_waits ? 1 : kScrubReads;
    uint32_t uncovered = 0;
    const auto passed = [&] { state_.scrubbed.offset = std::max(mover.seen_offset, mover.first_offset + mover.entry); };
    while (mover.entry < mover.entry_count) {
        const BlockEntry &block = mover.entries[mover.entry];
        const uint32_t offset = mover.first_offset + mover.entry;
        if ((block.flags & layout::kHeaderFlag) != 0) {
            ++mover.entry;
            if ((block.flags & 0xffff) == static_cast<uint32_t>(BatchKind::records) && offset >= mover.seen_offset &&
                state_.bands[mover.band].references > 0) {
                passed();
                read_metadata(mover, Want::record_header, start + offset, 1);
                return true;
            }
            continue;
        }
        if (!has_page(mover, mover.entry)) {
            passed();
            return false;
        }
        if (!in_force(mover, mover.entry)) {
            ++mover.entry;
            continue;
        }
        if (state_.trims.hides(block.lba)) [[unlikely]] {
            if (!may_uncover(uncovered)) {
                passed();
                return false;
            }
            state_.trims.uncover(state_, block.lba);
            continue;
        }
        const auto free =
            std::find_if(scrub_reads_.begin(), scrub_reads_.end(), [](const ScrubRead &each) { return !each.taken; });
        if (mover.reads >= reads_max || free == scrub_reads_.end() || state_.now < scrub_next_ns_) {
            passed();
            return false;
        }
        ScrubRead &read = *free;
        read.taken = true;
        read.singly = false;
        read.timing = Timing::first;
        read.address = start + offset;
        read.count = 0;
        do {
            const BlockEntry &next = mover.entries[mover.entry++];
            read.lbas[read.count] = next.lba;
            read.crcs[read.count++] = next.crc;
        } while (mover.entry < mover.entry_count && read.count < run_max && has_page(mover, mover.entry) &&
                 in_force(mover, mover.entry) && !state_.trims.hides(mover.entries[mover.entry].lba));
        state_.scrubbed.seen += read.count;
        ++mover.reads;
        send(read, read.address, read.count, 0);
    }
    passed();
    next_metadata(mover);
    return true;
}

void Movers::send(ScrubRead &read, uint64_t address, uint32_t block_count, uint64_t delay_ns) noexcept {
    read.iov = iovec{read.memory, size_t{block_count} * kBlockSize};
    read.io.lba = address;
    read.io.block_count = block_count;
    read.sent_ns = state_.reactor->now_ns() + delay_ns;
    read.busy_answers = state_.stats.busy_answers;
    ++state_.bands[read.mover->band].readers;
    ++state_.stats.scrub_reads;
    charge(block_count);
    if (delay_ns > 0) {
        state_.submit_base_later(read.io, delay_ns);
    } else {
        state_.submit_base(read.io);
    }
}

void Movers::on_scrub_read(Io &io) noexcept {
    auto &read = *static_cast<ScrubRead *>(io.owner);
    read.mover->movers->came_back(read);
}

void Movers::came_back(ScrubRead &read) noexcept {
    Mover &mover = *read.mover;
    // A read that is only timed has already been verified, so its error is not investigated.
    const Answer answer = scrub_came_back(mover, read.io, read.probe, read.timing == Timing::first);
    if (answer == Answer::awaited) {
        return;  // the band keeps its reader, so its content stays
    }
    --state_.bands[mover.band].readers;
    if (answer == Answer::dropped) {
        return;
    }
    const Status status = read.io.status;
    if (std::exchange(read.probe.refused, false)) {
        mover.busy = status;  // the base is busy, not only this block
    } else if (read.timing != Timing::first) {
        if (check_timing(read)) {
            return;
        }
    } else if (read.singly) {
        const uint64_t address = read.address + read.single;
        state_.stats.read_errors += status == status::ok ? 0 : 1;
        if (status == status::ok && verified(read, read.single)) {
            ++state_.stats.scrub_read_blocks;
        } else if (wanted(read, read.single)) {
            state_.stats.crc_errors += status == status::ok ? 1 : 0;
            found_bad(mover, address, status == status::ok ? status::guard_check : status,
                      state_.stats.scrub_bad_blocks);
        }
        if (++read.single < read.count && !scrub_over(mover)) {
            send(read, address + 1, 1, 0);
            return;
        }
    } else {
        bool good = status == status::ok;
        for (uint32_t i = 0; good && i < read.count; ++i) {
            good = verified(read, i);
        }
        if (!good) {
            // A block counts as bad only if it also fails alone, later.
            read.singly = true;
            read.single = 0;
            send(read, read.address, 1, error_class(read.io) == ErrorClass::zone ? 0 : kReadAgainNs);
            return;
        }
        state_.stats.scrub_read_blocks += read.count;
        if (check_timing(read)) {
            return;
        }
    }
    read.taken = false;
    --mover.reads;
}

// Checks whether the read was slow. If so, reads the same blocks once more, then the first block of the base. True:
// such a read is in flight.
bool Movers::check_timing(ScrubRead &read) noexcept {
    Mover &mover = *read.mover;
    const uint64_t took_ns = state_.reactor->now_ns() - std::min(read.sent_ns, state_.reactor->now_ns());
    if (read.busy_answers != state_.stats.busy_answers || scrub_over(mover)) {
        return false;
    }
    switch (read.timing) {
        case Timing::first:
        case Timing::second:
            if (took_ns < kSlowNs) {
                return false;
            }
            if (read.timing == Timing::first) {
                read.timing = Timing::second;
                send(read, read.address, read.count, 0);
            } else {
                read.timing = Timing::elsewhere;
                send(read, 0, 1, 0);
            }
            return true;
        case Timing::elsewhere:
            if (took_ns < kQuickNs) {
                ++state_.stats.scrub_slow_reads;
                scrub_found_.slow = true;
                if (scrub_found_.status == status::ok) {
                    scrub_found_.address = read.address;
                }
            }
            return false;
    }
    return false;
}

bool Movers::wanted(const ScrubRead &read, uint32_t block) const noexcept {
    return state_.l2p.get(read.lbas[block]) == read.address + block && !state_.trims.hides(read.lbas[block]);
}

// A block that is read singly is the first in its memory. The CRC in memory is checked too, because host reads check
// that one.
bool Movers::verified(const ScrubRead &read, uint32_t block) const noexcept {
    if (!wanted(read, block) || MUTATED(scrub_not_verified)) {
        return true;
    }
    const uint8_t *memory = read.memory + (read.singly ? 0 : size_t{block} * kBlockSize);
    const uint32_t crc = crc32c(0, memory, kBlockSize);
    return crc == read.crcs[block] && (!state_.crcs.kept() || BlockCrcs::cut(crc) == state_.crcs.get(read.lbas[block]));
}

}  // namespace ftl
