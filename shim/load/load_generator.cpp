// SPDX-License-Identifier: BSD-3-Clause
#include "load/load_generator.hpp"

#include <algorithm>
#include <ctime>
#include <stdexcept>
#include <string>
#include <utility>

namespace ftl {
namespace {

constexpr uint32_t kQueueDepthMax = 4096;
constexpr uint32_t kIoBlocksMax = 4096;
constexpr uint64_t kLbaCountMax = uint64_t{1} << 32;  // 32 GiB of version tables
// So many random picks may hit a busy LBA before the round ends. A completion will free one.
constexpr int kPicksMax = 16;

uint64_t monotonic_ns() noexcept {
    timespec now{};
    clock_gettime(CLOCK_MONOTONIC, &now);
    return static_cast<uint64_t>(now.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(now.tv_nsec);
}

void require(bool holds, const std::string &message) {
    if (!holds) {
        throw std::invalid_argument(message);
    }
}

LoadConfig checked(const LoadConfig &config, const BlockDeviceInfo &device) {
    require(
        device.block_bytes == kBlockSize,
        "load needs a device with blocks of 4096 bytes without metadata, not of " + std::to_string(device.block_bytes));
    require(config.lba_count > 0 && config.first_lba < device.block_count &&
                config.lba_count <= device.block_count - config.first_lba && config.lba_count <= kLbaCountMax,
            "LBAs " + std::to_string(config.first_lba) + " + " + std::to_string(config.lba_count) +
                " exceed the device's " + std::to_string(device.block_count) + " blocks");
    require(config.max_queue_depth > 0 && config.max_queue_depth <= kQueueDepthMax,
            "max_queue_depth must be within 1.." + std::to_string(kQueueDepthMax));
    require(config.max_io_blocks > 0 && config.max_io_blocks <= kIoBlocksMax,
            "max_io_blocks must be within 1.." + std::to_string(kIoBlocksMax));
    return config;
}

}  // namespace

LoadGenerator::LoadGenerator(Reactor &reactor, std::shared_ptr<BlockDevice> device, const LoadConfig &config)
    : reactor_(reactor),
      device_(std::move(device)),
      config_(checked(config, device_->info())),
      content_(config.seed),
      versions_(config.verify == LoadVerify::exact ? config.lba_count : 0),
      last_(versions_.size()),
      busy_((config.lba_count + 63) / 64),
      memory_(uint64_t{config.max_queue_depth} * config.max_io_blocks * kBlockSize),
      slots_(config.max_queue_depth),
      prng_(config.seed) {
    auto *words = reinterpret_cast<uint64_t *>(memory_.data());
    for (Slot &slot : slots_) {
        slot.words = words;
        words += uint64_t{config.max_io_blocks} * LoadContent::kWords;
        slot.generator = this;
        slot.io.owner = &slot;
        slot.io.complete = &LoadGenerator::on_complete;
        slot.next_free = std::exchange(free_slots_, &slot);
    }
}

void LoadGenerator::start(const LoadRun &run) {
    if (!idle()) {
        throw std::logic_error("this load is already running: stop it and wait for its end");
    }
    const uint32_t io_blocks_max = std::min(config_.max_io_blocks, device_->info().max_io_blocks);
    require(run.io_blocks > 0 && run.io_blocks <= io_blocks_max && run.io_blocks <= config_.lba_count,
            "io_blocks " + std::to_string(run.io_blocks) + " must be within 1.." +
                std::to_string(std::min<uint64_t>(io_blocks_max, config_.lba_count)));
    require(run.queue_depth > 0 && run.queue_depth <= config_.max_queue_depth,
            "queue_depth " + std::to_string(run.queue_depth) + " must be within 1.." +
                std::to_string(config_.max_queue_depth));
    require(run.total_blocks > 0 || run.time_limit_ns > 0, "either total_blocks or time_limit_s must be given");
    require(run.write_percent <= 100, "write_percent must be within 0..100");
    run_ = run;
    progress_ = LoadProgress();
    progress_.running = true;
    issuing_ = true;
    issued_blocks_ = 0;
    cursor_ = 0;
    started_ns_ = reactor_.now_ns();
    until_ns_ = run.time_limit_ns == 0 ? kNever : started_ns_ + run.time_limit_ns;
}

void LoadGenerator::stop() noexcept {
    issuing_ = false;
}

void LoadGenerator::leave() {
    issuing_ = false;
    leaving_ = true;
    if (outstanding_ == 0) {
        reactor_.remove(id_);
    }
}

const LoadProgress &LoadGenerator::progress() noexcept {
    if (progress_.running) {
        progress_.elapsed_ns = reactor_.now_ns() - started_ns_;
    }
    return progress_;
}

uint32_t LoadGenerator::poll(uint64_t now_ns) noexcept {
    uint32_t work = 0;
    while (written_ != nullptr) {
        Slot &slot = *written_;
        written_ = slot.next_free;
        flush(slot);
        ++work;
    }
    if (issuing_) {
        issuing_ = now_ns < until_ns_;
        uint64_t first = 0;
        uint32_t block_count = 0;
        while (issuing_ && outstanding_ < run_.queue_depth && pick(first, block_count)) {
            issue(first, block_count);
            ++work;
        }
    }
    if (progress_.running && !issuing_ && outstanding_ == 0) {
        progress_.elapsed_ns = now_ns - started_ns_;
        progress_.running = false;
        reactor_.emit(EventKind::load_done, id_, progress_.done_blocks, progress_.verify_errors + progress_.io_errors);
        ++work;
    }
    if (leaving_ && outstanding_ == 0) {
        reactor_.remove(id_);  // may destroy this object
    }
    return work;
}

// Chooses the place of the next I/O. False: no place is free now, or nothing is left to do.
bool LoadGenerator::pick(uint64_t &first, uint32_t &block_count) noexcept {
    uint64_t wanted = run_.io_blocks;
    if (run_.total_blocks > 0) {
        wanted = std::min(wanted, run_.total_blocks - issued_blocks_);
        if (wanted == 0) {
            issuing_ = false;
            return false;
        }
    }
    if (run_.random) {
        block_count = static_cast<uint32_t>(wanted);
        const uint64_t places = config_.lba_count / run_.io_blocks;
        for (int i = 0; i < kPicksMax; ++i) {
            first = prng_.below(places) * run_.io_blocks;
            if (!is_busy(first, block_count)) {
                return true;
            }
        }
        return false;
    }
    first = cursor_;
    block_count = static_cast<uint32_t>(std::min(wanted, config_.lba_count - cursor_));
    if (is_busy(first, block_count)) {
        return false;
    }
    cursor_ = (cursor_ + block_count) % config_.lba_count;
    return true;
}

void LoadGenerator::issue(uint64_t first, uint32_t block_count) noexcept {
    Slot &slot = *free_slots_;
    free_slots_ = slot.next_free;
    ++outstanding_;
    issued_blocks_ += block_count;
    set_busy(first, block_count, true);
    slot.first = first;
    slot.block_count = block_count;
    slot.iov = {slot.words, size_t{block_count} * kBlockSize};
    Io &io = slot.io;
    io.lba = config_.first_lba + first;
    io.block_count = block_count;
    io.status = status::ok;
    io.iov = &slot.iov;
    io.iov_count = 1;
    switch (run_.kind) {
        case LoadRun::Kind::write:
            io.op = Op::write;
            break;
        case LoadRun::Kind::read:
            io.op = Op::read;
            break;
        case LoadRun::Kind::trim:
            io.op = Op::deallocate;
            io.iov_count = 0;
            break;
        case LoadRun::Kind::mixed:
            io.op = prng_.below(100) < run_.write_percent ? Op::write : Op::read;
            break;
    }
    for (uint32_t i = 0; i < block_count; ++i) {
        uint64_t *block = slot.words + size_t{i} * LoadContent::kWords;
        if (io.op == Op::write) {
            content_.fill(block, io.lba + i, next_version(first + i));
        } else if (io.op == Op::read) {
            // Destroys the result of an earlier read, so that it cannot pass for the result of this one.
            block[0] = ~LoadContent::kMagic;
        }
    }
    slot.submitted_ns = monotonic_ns();
    device_->submit(io);
}

void LoadGenerator::flush(Slot &slot) noexcept {
    Io &io = slot.io;
    io.op = Op::flush;
    io.block_count = 0;
    io.iov_count = 0;
    device_->submit(io);
}

Version LoadGenerator::next_version(uint64_t index) noexcept {
    if (config_.verify == LoadVerify::exact) {
        return ++last_[index];
    }
    common_version_ = common_version_ + 1 == kVersionUnknown ? 1 : common_version_ + 1;
    return common_version_;
}

void LoadGenerator::on_complete(Io &io) noexcept {
    auto &slot = *static_cast<Slot *>(io.owner);
    slot.generator->completed(slot);
}

void LoadGenerator::completed(Slot &slot) noexcept {
    const Io &io = slot.io;
    if (run_.sync && io.op == Op::write && io.status == status::ok) {
        slot.next_free = std::exchange(written_, &slot);
        return;
    }
    progress_.latency_ns.add(monotonic_ns() - slot.submitted_ns);
    ++progress_.done_ios;
    const bool exact = config_.verify == LoadVerify::exact;
    const auto expected = exact ? versions_.begin() + static_cast<ptrdiff_t>(slot.first) : versions_.end();
    const uint32_t known = exact ? slot.block_count : 0;
    if (io.status != status::ok) {
        ++progress_.io_errors;
        progress_.last_error_status = io.status;
        progress_.last_error_lba = io.lba;
        if (io.op != Op::read) {
            std::fill_n(expected, known, kVersionUnknown);
        }
    } else {
        progress_.done_blocks += slot.block_count;
        if (io.op == Op::write || io.op == Op::flush) {
            progress_.written_blocks += slot.block_count;
            std::copy_n(last_.data() + (exact ? slot.first : 0), known, expected);
        } else if (io.op == Op::deallocate) {
            progress_.trimmed_blocks += slot.block_count;
            std::fill_n(expected, known, Version{0});
        } else {
            progress_.read_blocks += slot.block_count;
            verify(slot);
        }
    }
    set_busy(slot.first, slot.block_count, false);
    slot.next_free = std::exchange(free_slots_, &slot);
    --outstanding_;
}

void LoadGenerator::verify(const Slot &slot) noexcept {
    if (config_.verify == LoadVerify::none) {
        return;
    }
    for (uint32_t i = 0; i < slot.block_count; ++i) {
        const uint64_t lba = slot.io.lba + i;
        const Version expected = config_.verify == LoadVerify::exact ? versions_[slot.first + i] : kVersionUnknown;
        const LoadContent::Found found = content_.check(slot.words + size_t{i} * LoadContent::kWords, lba, expected);
        if (found.mismatch == Mismatch::none) {
            continue;
        }
        ++progress_.verify_errors;
        ++progress_.mismatches[static_cast<size_t>(found.mismatch)];
        if (progress_.example_count < LoadProgress::kExamplesMax) {
            progress_.examples[progress_.example_count++] = {found.mismatch, lba, expected, found.lba, found.version};
        }
    }
}

bool LoadGenerator::is_busy(uint64_t first, uint32_t block_count) const noexcept {
    for (uint64_t i = first; i < first + block_count; ++i) {
        if ((busy_[i / 64] >> (i % 64) & 1) != 0) {
            return true;
        }
    }
    return false;
}

void LoadGenerator::set_busy(uint64_t first, uint32_t block_count, bool busy) noexcept {
    for (uint64_t i = first; i < first + block_count; ++i) {
        const uint64_t bit = uint64_t{1} << (i % 64);
        busy_[i / 64] = busy ? busy_[i / 64] | bit : busy_[i / 64] & ~bit;
    }
}

}  // namespace ftl
