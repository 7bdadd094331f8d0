// SPDX-License-Identifier: BSD-3-Clause
#include "ftl/reader.hpp"

#include <algorithm>
#include <cstring>

namespace ftl {

Reader::Reader(CoreState &state) : state_(state), children_(kChildren) {
    free_.reserve(kChildren);
    for (Child &child : children_) {
        child.reader = this;
        child.io.op = Op::read;
        child.io.iov = child.iov;
        child.io.owner = &child;
        child.io.complete = on_complete;
        free_.push_back(&child);
    }
}

void Reader::start(Io &io, IoQueue &done) noexcept {
    io.device_data[0] = 0;
    io.device_data[1] = 0;
    io.device_data[2] = 0;
    state_.stats.user_read_blocks += io.block_count;
    if (!waiting_.empty() || !advance(io)) {
        waiting_.push(io);
    } else if (io.device_data[0] == 0) {
        done.push(io);
    }
}

uint32_t Reader::run(IoQueue &done) noexcept {
    uint32_t work = 0;
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

void Reader::fail(IoQueue &done) noexcept {
    while (!waiting_.empty()) {
        Io &io = *waiting_.pop();
        io.status = state_.failed;
        io.device_data[2] = 1;
        if (io.device_data[0] == 0) {
            done.push(io);
        }
    }
}

// False: no child is left; the parent waits with its next block noted.
bool Reader::advance(Io &io) noexcept {
    uint32_t block = static_cast<uint32_t>(io.device_data[1]);
    IovCursor cursor(io.iov);
    cursor.skip(size_t{block} * kBlockSize);
    while (block < io.block_count) {
        const uint64_t entry = state_.l2p.get(io.lba + block);
        switch (L2p::tag(entry)) {
            case L2p::Tag::slot:
                cursor.write(state_.buffer.block(static_cast<uint32_t>(L2p::payload(entry))), kBlockSize);
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
                const uint32_t most = std::min(io.block_count - block, state_.base->info().max_io_blocks);
                while (count < most && state_.l2p.get(io.lba + block + count) == entry + count) {
                    ++count;
                }
                block += issue_run(io, cursor, entry, count);
                break;
            }
        }
    }
    io.device_data[2] = 1;
    return true;
}

// A run of contiguous addresses never leaves its zone: behind every data area stands a summary.
uint32_t Reader::issue_run(Io &io, IovCursor &cursor, uint64_t address, uint32_t limit) noexcept {
    Child &child = *free_.back();
    const IovCursor begin = cursor;
    const size_t most = size_t{limit} * kBlockSize;
    uint32_t entries = 0;
    size_t bytes = 0;
    while (bytes < most && entries < kChildIov) {
        const size_t step = cursor.adjacent(most - bytes);
        child.iov[entries++] = iovec{cursor.data(), step};
        bytes += step;
        cursor.skip(step);
    }
    const auto count = static_cast<uint32_t>(bytes / kBlockSize);
    cursor = begin;
    if (count == 0) {
        io.status = status::sgl_data_length;  // scattered into crumbs: more entries per block than a child has
        cursor.skip(kBlockSize);
        return 1;
    }
    cursor.skip(size_t{count} * kBlockSize);
    // Of a scattered caller's last block only a part may have fitted: the next child reads it.
    for (size_t surplus = bytes - size_t{count} * kBlockSize; surplus > 0;) {
        iovec &last = child.iov[entries - 1];
        const size_t step = std::min(surplus, last.iov_len);
        last.iov_len -= step;
        surplus -= step;
        entries -= last.iov_len == 0 ? 1 : 0;
    }
    free_.pop_back();
    child.parent = &io;
    child.band = state_.band_of(address);
    child.io.lba = address;
    child.io.block_count = count;
    child.io.iov_count = entries;
    ++io.device_data[0];
    ++state_.bands[child.band].readers;
    state_.submit_base(child.io);
    return count;
}

void Reader::on_complete(Io &io) noexcept {
    auto &child = *static_cast<Child *>(io.owner);
    child.reader->came_back(child);
}

void Reader::came_back(Child &child) noexcept {
    Io &parent = *child.parent;
    const bool was_busy = child.io.busy_since_ns != 0;
    const Answer answer = state_.came_back(child.io, MUTATED(busy_read_fails) ? 0 : patience_ns_);
    if (answer == Answer::awaited) {
        return;  // the band keeps its reader, so what is there stays
    }
    if (answer == Answer::final && was_busy) {
        // Those that had to wait for a child meanwhile have no time left.
        patience_ns_ = error_class(child.io) == ErrorClass::busy ? kBusyPatienceLeftNs : kBusyReadPatienceNs;
    }
    --state_.bands[child.band].readers;
    if (child.io.status != status::ok) {
        ++state_.stats.read_errors;
        parent.status = child.io.status;
    }
    free_.push_back(&child);
    // Only the base's poll() comes here, never the parent's submit().
    if (--parent.device_data[0] == 0 && parent.device_data[2] != 0) {
        parent.complete(parent);
    }
}

}  // namespace ftl
