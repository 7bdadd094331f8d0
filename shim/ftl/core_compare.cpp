// SPDX-License-Identifier: BSD-3-Clause
// FtlCore's compare_write: a block is written if it holds what the host expects, and nothing comes between.
//
// The core reads the block, and watches its LBA meanwhile. If the LBA changes before the write is accepted, the core
// reads again. So no other I/O ever waits. A block that is written often is in the write buffer, where the second read
// ends at once.
#include <cstring>
#include <utility>

#include "base/iov_cursor.hpp"
#include "base/mutation.hpp"
#include "ftl/core.hpp"

namespace ftl {

uint64_t FtlCore::allocated_blocks() {
    uint64_t count = 0;
    state_.reactor->call([&] { count = state_.mapped; });
    return count;
}

void FtlCore::make_compares() {
    for (uint32_t i = 0; i < compares_.size(); ++i) {
        Compare &compare = compares_[i];
        compare.core = this;
        compare.number = i;
        compare.iov = iovec{compare_blocks_.data() + size_t{i} * kBlockSize, kBlockSize};
        compare.read.op = Op::read;
        compare.read.block_count = 1;
        compare.read.iov = &compare.iov;
        compare.read.iov_count = 1;
        compare.read.owner = &compare;
        compare.read.complete = on_compare_read;
    }
}

void FtlCore::compare_write(Io &io) noexcept {
    compares_waiting_.push(io);
    run_compares();
}

uint32_t FtlCore::run_compares() noexcept {
    compares_crave_ = false;
    if (state_.watch_count == 0 && compares_waiting_.empty()) {
        return 0;
    }
    uint32_t work = 0;
    for (Compare &compare : compares_) {
        if (compare.parent == nullptr && !compares_waiting_.empty()) {
            compare.parent = compares_waiting_.pop();
            compare.cancelled = false;
            begin_compare(compare);
            ++work;
        }
        if (compare.parent != nullptr && !compare.reading) {
            work += judge_compare(compare) ? 1 : 0;
        }
    }
    return work;
}

void FtlCore::begin_compare(Compare &compare) noexcept {
    state_.watch(compare.number, compare.parent->lba);
    compare.read.lba = compare.parent->lba;
    compare.read.status = status::ok;
    compare.reading = true;
    IoList at_once;
    reader_.start(compare.read, at_once);
    compare.reading = at_once.empty();
}

void FtlCore::on_compare_read(Io &io) noexcept {
    auto &compare = *static_cast<Compare *>(io.owner);
    FtlCore &core = *compare.core;
    compare.reading = false;
    if (core.state_.failed != status::ok || compare.cancelled) {
        core.end_compare(compare, core.state_.failed != status::ok ? core.state_.failed : status::aborted);
        return;
    }
    core.judge_compare(compare);
}

// False: the write must wait for room, or the block is being read again.
bool FtlCore::judge_compare(Compare &compare) noexcept {
    while (state_.watches[compare.number].changed) {
        begin_compare(compare);
        if (compare.reading) {
            return false;
        }
    }
    Io &io = *compare.parent;
    if (state_.pages_broken()) [[unlikely]] {
        state_.fail(status::internal_error);
        end_compare(compare, state_.failed);
        return true;
    }
    if (compare.read.status != status::ok) {
        end_compare(compare, compare.read.status);
        return true;
    }
    if (!is_same(compare) && !MUTATED(compare_ignored)) {
        if (!io.compared) {
            end_compare(compare, status::compare_failure);
            return true;
        }
        // An earlier core has accepted this write, and was lost before it was durable. Somebody else may have written
        // since. Nothing of this write goes to the nv cache now, so with a cache the base must have it.
        compare.parent = nullptr;
        state_.unwatch(compare.number);
        if (io.fua || (cache_ && cache_->state() != NvCache::State::off)) {
            flush(io, false);
        } else {
            done_.push(io);
        }
        return true;
    }
    if (refusing_ || state_.writes_failed != status::ok) {
        end_compare(compare, refusing_ ? Status{status::namespace_not_ready} : state_.writes_failed);
        return true;
    }
    if (!share_allows()) {
        throttled_ = true;
        return false;
    }
    WriteBuffer &buffer = state_.buffer;
    if (buffer.free.count() == 0) {
        compares_crave_ = true;
        return false;
    }
    const uint32_t slot = buffer.free.take();
    IovCursor cursor(io.memory());
    cursor.skip(kBlockSize);
    cursor.read(buffer.block(slot), kBlockSize);
    compare.parent = nullptr;
    state_.unwatch(compare.number);
    accept_block(io.lba, slot, crc32c(0, state_.buffer.block(slot), kBlockSize));
    io.compared = true;
    accepted(io);
    return true;
}

bool FtlCore::is_same(const Compare &compare) const noexcept {
    const auto *block = static_cast<const uint8_t *>(compare.iov.iov_base);
    bool same = true;
    IovCursor(compare.parent->memory()).each(kBlockSize, [&](const uint8_t *data, size_t bytes) {
        same = same && std::memcmp(block, data, bytes) == 0;
        block += bytes;
    });
    return same;
}

void FtlCore::end_compare(Compare &compare, Status status) noexcept {
    state_.unwatch(compare.number);
    finish(*std::exchange(compare.parent, nullptr), status);
}

void FtlCore::cancel_compare(Io &io) noexcept {
    if (compares_waiting_.remove(io)) {
        finish(io, status::aborted);
        return;
    }
    for (Compare &compare : compares_) {
        if (compare.parent == &io) {
            compare.cancelled = compare.reading;
            if (!compare.reading) {
                end_compare(compare, status::aborted);
            }
        }
    }
}

// The core has failed. Compares that are being read end when the read comes back.
void FtlCore::fail_compares() noexcept {
    while (!compares_waiting_.empty()) {
        finish(*compares_waiting_.pop(), state_.failed);
    }
    for (Compare &compare : compares_) {
        if (compare.parent != nullptr && !compare.reading) {
            end_compare(compare, state_.failed);
        }
    }
}

}  // namespace ftl
