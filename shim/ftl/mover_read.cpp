// SPDX-License-Identifier: BSD-3-Clause
// Movers' blocks: reads valid blocks in runs, verifies them and queues them for the reloc stream.
#include <algorithm>
#include <cstring>

#include "base/iov_cursor.hpp"
#include "ftl/mover.hpp"
#include "ftl/nv_cache.hpp"

namespace ftl {

using layout::BatchKind;
using layout::BlockEntry;

// `entry`: index into the window.
bool Movers::in_force(const Mover &mover, uint32_t entry) const noexcept {
    const BlockEntry &block = mover.entries[entry];
    const uint32_t offset = mover.first_offset + entry;
    return (block.flags & layout::kHeaderFlag) == 0 && offset >= mover.seen_offset &&
           block.lba < state_.config.block_count &&
           state_.l2p.get(block.lba) == state_.zone(mover.band, mover.punit).start + offset;
}

// Whether in_force() of this entry need not wait for a page, and the CRC of a copy neither. The pages for the next
// entries are on their way then.
bool Movers::has_page(Mover &mover, uint32_t entry) const noexcept {
    if (state_.l2p.paged() == nullptr) {
        return true;
    }
    const auto want = [&](uint32_t number) {
        const uint64_t lba = mover.entries[number].lba;
        if (lba >= state_.config.block_count) {
            return true;
        }
        return state_.l2p.want(lba, 1, PagedMemory::For::core) &&
               (mover.scrubs || !in_force(mover, number) || state_.crcs.want(lba, 1, PagedMemory::For::core));
    };
    const uint32_t ahead = std::min(mover.entry_count, entry + kPagesAhead);
    for (mover.wanted = entry == 0 ? 0 : std::max(mover.wanted, entry); mover.wanted < ahead; ++mover.wanted) {
        want(mover.wanted);
    }
    if (!want(entry)) {
        mover.paging_since = mover.paging ? mover.paging_since : state_.page_events;
        mover.paging = !state_.waited_long(mover.paging_since);
        return !mover.paging;
    }
    mover.paging = false;
    return true;
}

// Whether another chunk may be uncovered in this step.
bool Movers::may_uncover(uint32_t &uncovered) noexcept {
    scanning_ |= uncovered >= kScanStep;
    uncovered += state_.config.trim_chunk;
    return uncovered <= kScanStep;
}

// Whether the pace allows another read. A move makes small steps while hosts write or read, however little they write,
// and goes on without a pause when they do nothing.
bool Movers::may_go_on() noexcept {
    if (!state_.throttle.allows_move() && state_.beside_io() && state_.now < step_at_ns_ && !state_.clock_stands) {
        state_.moves_rest = true;
        return false;
    }
    step_at_ns_ = state_.now + kStepNs;
    return true;
}

// False: blocked, or metadata must be read first. True: the window is done, and the next step is chosen.
bool Movers::scan_window(Mover &mover) noexcept {
    RelocBuffer &buffer = state_.reloc;
    const uint64_t start = state_.zone(mover.band, mover.punit).start;
    const auto valid = [&](uint32_t entry) { return in_force(mover, entry); };
    uint32_t uncovered = 0;
    const uint32_t run_max = std::min(kRunBlocks, state_.base->info().max_io_blocks);
    while (mover.entry < mover.entry_count) {
        const BlockEntry &block = mover.entries[mover.entry];
        if ((block.flags & layout::kHeaderFlag) != 0) {
            const uint32_t offset = mover.first_offset + mover.entry++;
            if ((block.flags & 0xffff) == static_cast<uint32_t>(BatchKind::records) && offset >= mover.seen_offset &&
                state_.bands[mover.band].references > 0) {
                read_metadata(mover, Want::record_header, start + offset, 1);
                return true;
            }
            continue;
        }
        if (!has_page(mover, mover.entry)) {
            state_.moves_page = true;
            return false;
        }
        if (!valid(mover.entry)) {
            ++mover.entry;
            continue;
        }
        if (state_.trims.hides(block.lba)) [[unlikely]] {
            if (!may_uncover(uncovered)) {
                return false;
            }
            state_.trims.uncover(state_, block.lba);
            continue;
        }
        if (mover.reads >= state_.config.max_reloc_qdepth || free_reads_.empty() || buffer.free.count() == 0 ||
            !may_go_on()) {
            return false;
        }
        Read &read = *free_reads_.back();
        free_reads_.pop_back();
        read.mover = &mover;
        read.count = 0;
        read.singly = read.cached = false;
        do {
            const BlockEntry &next = mover.entries[mover.entry];
            const uint32_t slot = buffer.free.take();
            buffer.meta[slot] = RelocBuffer::Meta{next.lba, next.seq,    start + mover.first_offset + mover.entry,
                                                  next.crc, mover.index, status::ok};
            read.slots[read.count++] = slot;
            ++mover.entry;
        } while (mover.entry < mover.entry_count && read.count < run_max && buffer.free.count() > 0 &&
                 has_page(mover, mover.entry) && valid(mover.entry) &&
                 !state_.trims.hides(mover.entries[mover.entry].lba));
        ++mover.reads;
        ++state_.reloc_reads;
        state_.throttle.relocates(read.count);
        issue(read, 0);
    }
    next_metadata(mover);
    return true;
}

void Movers::issue(Read &read, uint64_t delay_ns) noexcept {
    RelocBuffer &buffer = state_.reloc;
    const uint32_t first = read.singly ? read.single : 0;
    const uint32_t count = read.singly ? 1 : read.count;
    uint32_t entries = 0;
    for (uint32_t i = first; i < first + count; ++i) {
        entries = add_piece(read.iov, entries, buffer.block(read.slots[i]), kBlockSize);
    }
    read.io.lba = buffer.meta[read.slots[first]].source;
    read.io.block_count = count;
    read.io.iov_count = entries;
    state_.stats.reloc_read_blocks += count;
    ++state_.stats.reloc_reads;
    if (delay_ns > 0) {
        state_.submit_base_later(read.io, delay_ns);
    } else {
        state_.submit_base(read.io);
    }
}

void Movers::on_read(Io &io) noexcept {
    auto &read = *static_cast<Read *>(io.owner);
    read.mover->movers->came_back(read);
}

void Movers::came_back(Read &read) noexcept {
    Mover &mover = *read.mover;
    if (read.cached) {
        if (!state_.cache->read_back(read.io, kBusyPatienceNs)) {
            return;
        }
        if (state_.failed != status::ok) {
            return;
        }
    } else if (!settled(read.io, read.probe, read.singly)) {
        return;
    }
    const Status status = read.io.status;
    if (!read.singly && (status != status::ok || !verified(read))) {
        // Read the blocks one by one: a bad block must not cost its neighbours, and must fail twice to count as bad.
        read.singly = true;
        read.single = 0;
        const bool zone = error_class(read.io) == ErrorClass::zone;
        issue(read, zone ? 0 : kReadAgainNs);
        return;
    }
    if (read.singly) {
        const uint32_t slot = read.slots[read.single];
        Status bad = status;
        state_.stats.read_errors += status == status::ok ? 0 : 1;
        if (status == status::ok && !verified(slot)) {
            ++state_.stats.crc_errors;
            bad = status::guard_check;
        }
        state_.stats.reads_rescued += read.cached && bad == status::ok ? 1 : 0;
        if (bad != status::ok && wanted(slot)) {
            if (rescue(slot)) {
                bad = status::ok;
            } else if (read.cached) {
                bad = state_.reloc.meta[slot].status;  // the block is lost with the status that the media returned
            } else if (ask_cache(read)) {
                state_.reloc.meta[slot].status = bad;
                return;
            }
        }
        read.cached = false;
        check_block(mover, slot, bad);
        if (++read.single < read.count) {
            issue(read, 0);
            return;
        }
    } else {
        for (uint32_t i = 0; i < read.count; ++i) {
            check_block(mover, read.slots[i], status::ok);
        }
    }
    --mover.reads;
    --state_.reloc_reads;
    free_reads_.push_back(&read);
}

bool Movers::wanted(uint32_t slot) const noexcept {
    const RelocBuffer::Meta &meta = state_.reloc.meta[slot];
    return state_.l2p.get(meta.lba) == meta.source;
}

// True if every block that is still wanted is what was written.
bool Movers::verified(const Read &read) const noexcept {
    return std::all_of(read.slots, read.slots + read.count, [this](uint32_t slot) { return verified(slot); });
}

bool Movers::verified(uint32_t slot) const noexcept {
    return state_.p2l || !wanted(slot) ||
           crc32c(0, state_.reloc.block(slot), kBlockSize) == state_.reloc.meta[slot].crc;
}

// `status`: ok for a verified block.
void Movers::check_block(Mover &mover, uint32_t slot, Status status) noexcept {
    RelocBuffer &buffer = state_.reloc;
    state_.trims.uncover(state_, buffer.meta[slot].lba);  // it may have been trimmed since
    if (!wanted(slot)) {
        buffer.free.give(slot);
        return;
    }
    if (status != status::ok) {
        buffer.meta[slot].status = status;
        mover.lost_slots.push_back(buffer.next.data(), slot);
        return;
    }
    ++mover.copies;
    buffer.queue(slot, state_.class_of_copy(mover.band, buffer.meta[slot].seq));
}

// The write buffer may still have a block that media cannot return.
bool Movers::rescue(uint32_t slot) noexcept {
    const RelocBuffer::Meta &meta = state_.reloc.meta[slot];
    const WriteBuffer &buffer = state_.buffer;
    const uint32_t found = buffer.find(
        meta.lba, [&](const SlotRecord &record) { return record.seq == meta.seq && record.crc == meta.crc; });
    if (found == kNoSlot) {
        return false;
    }
    std::memcpy(state_.reloc.block(slot), buffer.block(found), kBlockSize);
    ++state_.stats.reads_rescued;
    return true;
}

// The nv cache may have it, too.
bool Movers::ask_cache(Read &read) noexcept {
    const uint32_t slot = read.slots[read.single];
    const RelocBuffer::Meta &meta = state_.reloc.meta[slot];
    read.iov[0] = iovec{state_.reloc.block(slot), kBlockSize};
    read.io.iov_count = 1;
    read.cached = state_.cache != nullptr && state_.cache->read(meta.lba, BlockCrcs::cut(meta.crc), read.io);
    return read.cached;
}

}  // namespace ftl
