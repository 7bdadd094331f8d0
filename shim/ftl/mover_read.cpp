// SPDX-License-Identifier: BSD-3-Clause
// Movers' other half: valid blocks are read in runs, verified, and queued for the reloc stream.
#include <algorithm>

#include "ftl/mover.hpp"

namespace ftl {

using layout::BatchKind;
using layout::BlockEntry;

// False: blocked, or metadata has to be read first. True: the window is done, and what comes next was chosen.
bool Movers::scan_window(Mover &mover) noexcept {
    RelocBuffer &buffer = state_.reloc;
    const uint64_t start = state_.zone(mover.band, mover.punit).start;
    const auto valid = [&](uint32_t entry) {
        const BlockEntry &block = mover.entries[entry];
        const uint32_t offset = mover.first_offset + entry;
        return (block.flags & layout::kHeaderFlag) == 0 && offset >= mover.seen_offset &&
               block.lba < state_.config.block_count && state_.l2p.get(block.lba) == start + offset;
    };
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
        if (!valid(mover.entry)) {
            ++mover.entry;
            continue;
        }
        if (mover.reads >= state_.config.max_reloc_qdepth || free_reads_.empty() || buffer.free.count() == 0) {
            return false;
        }
        Read &read = *free_reads_.back();
        free_reads_.pop_back();
        read.mover = &mover;
        read.count = 0;
        read.singly = false;
        do {
            const BlockEntry &next = mover.entries[mover.entry];
            const uint32_t slot = buffer.free.take();
            buffer.meta[slot] = RelocBuffer::Meta{next.lba, next.seq,    start + mover.first_offset + mover.entry,
                                                  next.crc, mover.index, status::ok};
            read.slots[read.count++] = slot;
            ++mover.entry;
        } while (mover.entry < mover.entry_count && read.count < run_max && buffer.free.count() > 0 &&
                 valid(mover.entry));
        ++mover.reads;
        ++state_.reloc_reads;
        issue(read);
    }
    next_metadata(mover);
    return true;
}

void Movers::issue(Read &read) noexcept {
    RelocBuffer &buffer = state_.reloc;
    const uint32_t first = read.singly ? read.single : 0;
    const uint32_t count = read.singly ? 1 : read.count;
    uint32_t entries = 0;
    const uint8_t *end = nullptr;
    for (uint32_t i = first; i < first + count; ++i) {
        uint8_t *block = buffer.block(read.slots[i]);
        if (block == end) {
            read.iov[entries - 1].iov_len += kBlockSize;
        } else {
            read.iov[entries++] = iovec{block, kBlockSize};
        }
        end = block + kBlockSize;
    }
    read.io.lba = buffer.meta[read.slots[first]].source;
    read.io.block_count = count;
    read.io.iov_count = entries;
    state_.stats.reloc_read_blocks += count;
    ++state_.stats.reloc_reads;
    state_.submit_base(read.io);
}

void Movers::on_read(Io &io) noexcept {
    auto &read = *static_cast<Read *>(io.owner);
    read.mover->movers->came_back(read);
}

void Movers::came_back(Read &read) noexcept {
    if (!state_.came_back(read.io)) {
        return;
    }
    Mover &mover = *read.mover;
    const Status status = read.io.status;
    if (status != status::ok && !read.singly) {
        // One bad block must not cost its neighbours.
        read.singly = true;
        read.single = 0;
        if (read.count > 1) {
            issue(read);
            return;
        }
    }
    if (read.singly) {
        state_.stats.read_errors += status == status::ok ? 0 : 1;
        check_block(mover, read.slots[read.single], status);
        if (++read.single < read.count) {
            issue(read);
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

void Movers::check_block(Mover &mover, uint32_t slot, Status status) noexcept {
    RelocBuffer &buffer = state_.reloc;
    RelocBuffer::Meta &meta = buffer.meta[slot];
    if (state_.l2p.get(meta.lba) != meta.source) {
        buffer.free.give(slot);
        return;
    }
    if (status == status::ok && !state_.p2l && crc32c(0, buffer.block(slot), kBlockSize) != meta.crc) {
        ++state_.stats.crc_errors;
        status = status::guard_check;
    }
    if (status != status::ok) {
        meta.status = status;
        mover.lost_slots.push_back(buffer.next.data(), slot);
        return;
    }
    ++mover.copies;
    buffer.fifo.push_back(buffer.next.data(), slot);
}

}  // namespace ftl
