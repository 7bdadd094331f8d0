// SPDX-License-Identifier: BSD-3-Clause
#include "ftl/reader.hpp"

#include <algorithm>
#include <cstring>

#include "base/mutation.hpp"
#include "ftl/nv_cache.hpp"

namespace ftl {
namespace {

// Media and data integrity errors (SCT 2), and the statuses with which targets report such errors for these blocks or
// for their zone.
constexpr bool of_media(Status status) {
    const ErrorClass kind = error_class(Op::read, status, true);
    return kind == ErrorClass::block || kind == ErrorClass::zone || perhaps_media(status);
}

}  // namespace

Reader::Reader(CoreState &state) : state_(state), children_(kChildren), pages_(uint64_t{kChildren} * kBlockSize) {
    free_.reserve(kChildren);
    uint8_t *page = pages_.data();
    for (Child &child : children_) {
        child.reader = this;
        child.io.op = Op::read;
        child.io.iov = child.iov;
        child.io.owner = &child;
        child.io.complete = on_complete;
        child.page = page;
        page += kBlockSize;
        free_.push_back(&child);
    }
}

void Reader::start(Io &io, IoList &done) noexcept {
    io.device_data[0] = 0;
    io.device_data[1] = 0;
    io.device_data[2] = 0;
    state_.stats.user_read_blocks += io.block_count;
    if (!state_.want(io.lba, io.block_count)) {
        io.device_data[1] = state_.page_events;
        paging_.push(io);
        return;
    }
    look_up(io, done);
}

void Reader::look_up(Io &io, IoList &done) noexcept {
    if (!waiting_.empty() || !advance(io)) {
        waiting_.push(io);
    } else if (io.device_data[0] == 0) {
        done.push(io);
    }
}

uint32_t Reader::run(IoList &done) noexcept {
    uint32_t work = 0;
    IoList paging;
    paging.append(paging_);
    while (!paging.empty()) {
        Io &io = *paging.pop();
        if (state_.want(io.lba, io.block_count) || state_.waited_long(io.device_data[1])) {
            io.device_data[1] = 0;
            look_up(io, done);
            ++work;
        } else {
            paging_.push(io);
        }
    }
    while (!waiting_.empty() && !free_.empty()) {
        Io &io = *waiting_.front();
        const bool complete = advance(io);
        ++work;
        if (!complete) {
            break;
        }
        waiting_.pop();
        if (io.device_data[0] == 0) {
            done.push(io);
        }
    }
    return work;
}

void Reader::fail(IoList &done) noexcept {
    while (!paging_.empty()) {
        Io &io = *paging_.pop();
        io.device_data[1] = 0;
        waiting_.push(io);
    }
    while (!waiting_.empty()) {
        Io &io = *waiting_.pop();
        io.status = state_.failed;
        io.device_data[2] = 1;
        if (io.device_data[0] == 0) {
            done.push(io);
        }
    }
}

// False: no child is free. The parent waits, with its next block noted.
bool Reader::advance(Io &io) noexcept {
    uint32_t block = static_cast<uint32_t>(io.device_data[1]);
    IovCursor cursor(io.memory());
    cursor.skip(size_t{block} * kBlockSize);
    const bool hidden = state_.trims.any() && !MUTATED(unapplied_trim_not_read);
    while (block < io.block_count) {
        if (hidden && state_.trims.hides(io.lba + block)) [[unlikely]] {
            cursor.write_zeroes(kBlockSize);
            ++block;
            continue;
        }
        const uint64_t entry = state_.l2p.get(io.lba + block);
        switch (L2p::tag(entry)) {
            case L2p::Tag::slot:
                if (!copy_slot(static_cast<uint32_t>(L2p::payload(entry)), cursor)) {
                    state_.count_unreadable();
                    io.status = status::unrecovered_read;
                }
                ++block;
                break;
            case L2p::Tag::lost:
                if (entry != L2p::kInvalid) {
                    io.status = status::unrecovered_read;
                    cursor.skip(kBlockSize);
                    ++block;
                    break;
                }
                [[fallthrough]];
            case L2p::Tag::trim:
                cursor.write_zeroes(kBlockSize);
                ++block;
                break;
            case L2p::Tag::media: {
                if (free_.empty()) {
                    io.device_data[1] = block;
                    return false;
                }
                uint32_t count = 1;
                uint32_t most = std::min({io.block_count - block, state_.base->info().max_io_blocks, kRunBlocks});
                if (hidden) [[unlikely]] {
                    most = state_.trims.visible(io.lba + block, most);
                }
                while (count < most && state_.l2p.get(io.lba + block + count) == entry + count) {
                    ++count;
                }
                block += issue_run(io, block, cursor, entry, count);
                break;
            }
        }
    }
    io.device_data[2] = 1;
    return true;
}

// Compares with the slot's own CRC, not with the CRC table: the block has been in memory since that CRC was computed.
bool Reader::copy_slot(uint32_t slot, IovCursor &cursor) noexcept {
    const WriteBuffer &buffer = state_.buffer;
    cursor.write(buffer.block(slot), kBlockSize);
    if (!state_.crcs.kept() || crc32c(0, buffer.block(slot), kBlockSize) == buffer.records[slot].crc) {
        return true;
    }
    ++state_.stats.crc_errors;
    ++state_.stats.user_crc_errors;
    return false;
}

// A run of contiguous addresses stays within its zone, because a summary follows every data area.
uint32_t Reader::issue_run(Io &io, uint32_t block, IovCursor &cursor, uint64_t address, uint32_t limit) noexcept {
    Child &child = *free_.back();
    const uint32_t count = point_iov(child, cursor, limit);
    if (count == 0) {
        io.status = status::sgl_data_length;  // too scattered: a block needs more iovecs than a child has
        cursor.skip(kBlockSize);
        return 1;
    }
    cursor.skip(size_t{count} * kBlockSize);
    free_.pop_back();
    child.parent = &io;
    child.first = block;
    child.count = count;
    child.done = 0;
    child.come = 0;
    child.again = child.cached = child.apart = false;
    child.probe = {};
    for (uint32_t i = 0; i < count; ++i) {
        child.crcs[i] = state_.crcs.get(io.lba + block + i);
    }
    ++io.device_data[0];
    submit(child, address, count);
    return count;
}

// Points the child at the memory from the cursor on. Returns the number of blocks that fit into the child's iovecs.
uint32_t Reader::point_iov(Child &child, IovCursor cursor, uint32_t most_blocks) noexcept {
    const size_t most = size_t{most_blocks} * kBlockSize;
    uint32_t entries = 0;
    size_t bytes = 0;
    while (bytes < most && entries < kChildIov) {
        const iovec piece = cursor.piece(most - bytes);
        if (piece.iov_len == 0) {
            break;
        }
        child.iov[entries++] = piece;
        bytes += piece.iov_len;
    }
    const auto count = static_cast<uint32_t>(bytes / kBlockSize);
    // If the caller's memory is scattered, the last block may fit only in part. The next child reads that block.
    for (size_t surplus = bytes - size_t{count} * kBlockSize; count > 0 && surplus > 0;) {
        iovec &last = child.iov[entries - 1];
        const size_t step = std::min(surplus, last.iov_len);
        last.iov_len -= step;
        surplus -= step;
        entries -= last.iov_len == 0 ? 1 : 0;
    }
    child.io.iov_count = entries;
    return count;
}

void Reader::point_apart(Child &child) noexcept {
    child.iov[0] = {child.page, kBlockSize};
    child.io.iov_count = 1;
    child.apart = true;
}

void Reader::submit(Child &child, uint64_t address, uint32_t block_count) noexcept {
    child.band = state_.band_of(address);
    child.io.lba = address;
    child.io.block_count = block_count;
    ++state_.bands[child.band].readers;
    state_.submit_base(child.io);
}

void Reader::on_complete(Io &io) noexcept {
    auto &child = *static_cast<Child *>(io.owner);
    child.reader->came_back(child);
}

void Reader::came_back(Child &child) noexcept {
    Io &parent = *child.parent;
    bool alive = state_.failed == status::ok;
    if (child.cached) {
        if (!state_.cache->read_back(child.io, kBusyReadPatienceNs)) {
            return;
        }
    } else {
        const Answer answer = MUTATED(busy_read_fails) ? state_.came_back(child.io, 0)
                                                       : state_.read_came_back(child.io, child.probe, patience_, true);
        if (answer == Answer::awaited) {
            return;  // the band keeps its reader, so its content stays
        }
        alive = answer == Answer::final;
        --state_.bands[child.band].readers;
    }
    const Status status = child.io.status;
    // A block that was refused while other reads succeeded has already been read again.
    child.again |=
        status != status::ok && !child.cached && child.io.block_count == 1 && error_class(child.io) == ErrorClass::busy;
    if (status == status::ok) {
        child.come = std::max(child.come, child.done + child.io.block_count);
    } else {
        ++state_.stats.read_errors;
    }
    if (go_on(child, status, alive)) {
        return;
    }
    free_.push_back(&child);
    // Only the base's poll() runs this, never the parent's submit().
    if (--parent.device_data[0] == 0 && parent.device_data[2] != 0) {
        if (state_.pages_broken()) [[unlikely]] {
            state_.fail(status::internal_error);
            parent.status = state_.failed;
        }
        parent.complete(parent);
    }
}

// --- verification

// `status`: of the I/O that has just come back. True: the child has another I/O in flight.
bool Reader::go_on(Child &child, Status status, bool alive) noexcept {
    Io &parent = *child.parent;
    for (;;) {
        // A failed read leaves the page as it was: with another block, perhaps.
        if (status == status::ok || !child.apart) {
            check(child);
        }
        if (child.done == child.count) {
            return false;
        }
        // After a failed read, the memory may still have the data of an earlier read, so only a successful read counts
        // as a CRC error.
        if (status == status::ok && child.done < child.come) {
            ++state_.stats.crc_errors;
            ++state_.stats.user_crc_errors;
            status = status::unrecovered_read;
        }
        if (child.cached && status != status::ok) {
            status = status::unrecovered_read;  // whatever status the nv cache returned
        }
        // Block `done` is wrong, could not be read, or must still be read by itself.
        const bool failed = status != status::ok;
        if (!alive || parent.status != status::ok || (failed && !of_media(status))) {
            parent.status = parent.status != status::ok ? parent.status : failed ? status : state_.failed;
            return false;
        }
        if (failed && child.again) {
            if (!child.cached) {
                state_.unreadable(child.band, child.io.lba, status);
                if (rescue(child)) {
                    status = status::ok;
                    continue;
                }
                if (ask_cache(child)) {
                    return true;
                }
            }
            state_.count_unreadable();
            parent.status = status;
            return false;
        }
        child.again = failed;
        state_.stats.reads_repeated += failed ? 1 : 0;
        switch (look_up(child)) {
            case Found::in_flight:
                return true;
            case Found::lost:
                parent.status = status::unrecovered_read;
                return false;
            case Found::here:
                status = status::ok;
                break;
        }
    }
}

// Advances over the blocks that have arrived and match their CRCs.
void Reader::check(Child &child) noexcept {
    if (child.done == child.come) {
        return;
    }
    IovCursor cursor(child.parent->memory());
    cursor.skip(size_t{child.first + child.done} * kBlockSize);
    while (child.done < child.come) {
        const iovec page{child.page, kBlockSize};
        if (!matches(child, child.apart ? IovCursor(page) : cursor)) {
            return;
        }
        if (child.apart) {
            cursor.write(child.page, kBlockSize);
        } else {
            cursor.skip(kBlockSize);
        }
        state_.stats.reads_rescued += child.cached ? 1 : 0;
        ++child.done;
        child.again = child.cached = child.apart = false;
    }
}

bool Reader::matches(const Child &child, IovCursor cursor) const noexcept {
    if (!state_.crcs.kept()) {
        return true;
    }
    uint32_t crc = 0;
    cursor.each(kBlockSize, [&crc](const uint8_t *data, size_t bytes) { crc = crc32c(crc, data, bytes); });
    return BlockCrcs::cut(crc) == child.crcs[child.done] || MUTATED(read_not_verified) ||
           (child.again && MUTATED(second_read_not_verified));
}

// Reads block `done` again, at the address that the L2P has now: it may have been moved, overwritten or trimmed
// meanwhile.
Reader::Found Reader::look_up(Child &child) noexcept {
    const uint64_t lba = child.parent->lba + child.first + child.done;
    IovCursor cursor(child.parent->memory());
    cursor.skip(size_t{child.first + child.done} * kBlockSize);
    child.crcs[child.done] = state_.crcs.get(lba);
    const uint64_t entry = state_.trims.hides(lba) ? L2p::kInvalid : state_.l2p.get(lba);
    switch (L2p::tag(entry)) {
        case L2p::Tag::media:
            point_apart(child);
            submit(child, entry, 1);
            return Found::in_flight;
        case L2p::Tag::slot:
            if (!copy_slot(static_cast<uint32_t>(L2p::payload(entry)), cursor)) {
                state_.count_unreadable();
                return Found::lost;
            }
            break;
        case L2p::Tag::lost:
            if (entry != L2p::kInvalid) {
                return Found::lost;
            }
            [[fallthrough]];
        case L2p::Tag::trim:
            cursor.write_zeroes(kBlockSize);
            break;
    }
    ++child.done;
    child.come = std::max(child.come, child.done);
    child.again = child.apart = false;
    return Found::here;
}

// The write buffer keeps some blocks for a while after they are on media.
bool Reader::rescue(Child &child) noexcept {
    if (!state_.crcs.kept()) {
        return false;
    }
    const WriteBuffer &buffer = state_.buffer;
    const uint16_t wanted = child.crcs[child.done];
    const uint32_t slot = buffer.find(child.parent->lba + child.first + child.done, [wanted](const SlotRecord &record) {
        return BlockCrcs::cut(record.crc) == wanted;
    });
    if (slot == kNoSlot) {
        return false;
    }
    IovCursor cursor(child.parent->memory());
    cursor.skip(size_t{child.first + child.done} * kBlockSize);
    cursor.write(buffer.block(slot), kBlockSize);
    ++state_.stats.reads_rescued;
    ++child.done;
    child.come = std::max(child.come, child.done);
    child.again = child.apart = false;
    return true;
}

bool Reader::ask_cache(Child &child) noexcept {
    if (state_.cache == nullptr) {
        return false;
    }
    point_apart(child);
    const uint64_t lba = child.parent->lba + child.first + child.done;
    child.cached = state_.cache->read(lba, child.crcs[child.done], child.io);
    return child.cached;
}

}  // namespace ftl
