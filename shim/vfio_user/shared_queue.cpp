// SPDX-License-Identifier: BSD-3-Clause
#include "vfio_user/shared_queue.hpp"

#include <sys/stat.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <stdexcept>
#include <string>
#include <system_error>

#include "base/mutation.hpp"

namespace ftl {
namespace {

constexpr uint32_t kSqePage = DmaMap::kPageBytes / sizeof(wire::Sqe);
constexpr uint32_t kCqePage = DmaMap::kPageBytes / sizeof(wire::Cqe);
constexpr uint16_t kPhaseBit = 1;

const SharedQueueConfig &checked(const SharedQueueConfig &config) {
    const auto within = [](const char *name, uint32_t value, uint32_t least, uint32_t most) {
        if (value < least || value > most) {
            throw std::invalid_argument(std::string(name) + " is " + std::to_string(value) + ", must be within " +
                                        std::to_string(least) + ".." + std::to_string(most));
        }
    };
    within("qid", config.qid, 0, SharedQueue::kQidMax);
    within("sq_entries", config.sq_entries, 2, SharedQueue::kEntriesMax);
    within("cq_entries", config.cq_entries, 2, SharedQueue::kEntriesMax);
    return config;
}

PageMemory record_of(int fd, uint32_t sq_entries) {
    struct stat file {};
    if (fstat(fd, &file) != 0) {
        throw std::system_error(errno, std::generic_category(), "record of a queue");
    }
    const uint64_t bytes = record_bytes(sq_entries);
    if (static_cast<uint64_t>(file.st_size) < bytes) {
        throw std::invalid_argument("the record of a queue has " + std::to_string(file.st_size) + " bytes, not " +
                                    std::to_string(bytes));
    }
    return PageMemory::of_file(fd, bytes);
}

}  // namespace

SharedQueue::SharedQueue(DmaMap &map, int bar0_fd, int record_fd, const SharedQueueConfig &config)
    : config_(checked(config)),
      map_(map),
      bar0_(bar0_fd, 0, kBarBytes, true, map.broken_flag()),
      record_(record_of(record_fd, config_.sq_entries)),
      sq_pages_(map.pages(config_.sq_iova, uint64_t{config_.sq_entries} * sizeof(wire::Sqe), false, keep_)),
      cq_pages_(map.pages(config_.cq_iova, uint64_t{config_.cq_entries} * sizeof(wire::Cqe), true, keep_)),
      sq_doorbell_(reinterpret_cast<uint32_t *>(bar0_.data() + kDoorbellsOffset) + size_t{2} * config_.qid),
      cq_doorbell_(sq_doorbell_ + 1),
      header_(reinterpret_cast<RecordHeader *>(record_.data())),
      slots_(reinterpret_cast<RecordSlot *>(record_.data() + kRecordSlotsOffset)) {
    free_.reserve(config_.sq_entries);
    if (header_->magic == 0) {
        begin();
    } else {
        go_on();
    }
    for (uint32_t slot = config_.sq_entries; slot-- > 0;) {
        if (slots_[slot].seq == 0) {
            free_.push_back(slot);
        }
    }
    in_flight_ = static_cast<uint32_t>(unfinished_.size());
}

void SharedQueue::begin() noexcept {
    std::atomic_ref<uint32_t>(*sq_doorbell_).store(0, std::memory_order_relaxed);
    std::atomic_ref<uint32_t>(*cq_doorbell_).store(0, std::memory_order_relaxed);
    header_->qid = config_.qid;
    header_->sq_entries = config_.sq_entries;
    header_->cq_entries = config_.cq_entries;
    header_->sq_iova = config_.sq_iova;
    header_->cq_iova = config_.cq_iova;
    store_recorded(header_->magic, kRecordMagic);
}

void SharedQueue::go_on() {
    const RecordHeader &header = *header_;
    if (header.magic != kRecordMagic || header.qid != config_.qid || header.sq_entries != config_.sq_entries ||
        header.cq_entries != config_.cq_entries || header.sq_iova != config_.sq_iova ||
        header.cq_iova != config_.cq_iova) {
        throw std::invalid_argument("the record is of another queue");
    }
    fetched_ = header.fetched;
    completed_ = header.completed;
    sq_head_ = static_cast<uint32_t>(fetched_ % config_.sq_entries);
    cq_tail_ = static_cast<uint32_t>(completed_ % config_.cq_entries);
    phase_ = completed_ / config_.cq_entries % 2 == 0;
    cq_head_ = load(cq_doorbell_);
    if (cq_head_ < config_.cq_entries) {  // else look() will tell
        cq_used_ = (cq_tail_ + config_.cq_entries - cq_head_) % config_.cq_entries;
    }
    for (uint32_t number = 0; number < config_.sq_entries; ++number) {
        RecordSlot &slot = slots_[number];
        if (slot.seq == 0) {
            continue;
        }
        if (slot.seq > fetched_) {
            clear_recorded(slot);  // the head has not moved past it
        } else if (slot.position == 0 || MUTATED(noted_executed_again)) {
            unfinished_.push_back(number);
        } else if (slot.position == completed_ + 1) {
            write_completion(slot.cqe);  // again, perhaps: the same entry in the same place
            advance_completed();
            clear_recorded(slot);
        } else if (slot.position <= completed_) {
            clear_recorded(slot);
        } else {
            throw std::invalid_argument("the record of the queue is damaged");
        }
    }
    std::sort(unfinished_.begin(), unfinished_.end(),
              [this](uint32_t a, uint32_t b) { return slots_[a].seq < slots_[b].seq; });
}

uint32_t SharedQueue::load(const uint32_t *doorbell) const noexcept {
    // The other processes store them; the type of an atomic_ref is never const.
    return std::atomic_ref<uint32_t>(*const_cast<uint32_t *>(doorbell)).load(std::memory_order_acquire);
}

bool SharedQueue::fail(SharedFault fault, uint32_t detail) noexcept {
    if (fault_ == SharedFault::none) {
        fault_ = fault;
        fault_detail_ = detail;
    }
    return false;
}

bool SharedQueue::look() noexcept {
    if (fault_ != SharedFault::none) {
        return false;
    }
    const uint32_t tail = load(sq_doorbell_);
    const uint32_t head = load(cq_doorbell_);
    if (map_.broken()) [[unlikely]] {
        return fail(SharedFault::broken_memory, 0);
    }
    if (tail >= config_.sq_entries) [[unlikely]] {
        return fail(SharedFault::invalid_doorbell, tail);
    }
    sq_tail_ = tail;
    if (head != cq_head_) {
        const uint32_t taken = head > cq_head_ ? head - cq_head_ : head + config_.cq_entries - cq_head_;
        if (head >= config_.cq_entries || taken > cq_used_) [[unlikely]] {
            return fail(SharedFault::invalid_doorbell, head);
        }
        cq_head_ = head;
        cq_used_ -= taken;
    } else if (head >= config_.cq_entries) [[unlikely]] {
        return fail(SharedFault::invalid_doorbell, head);
    }
    return true;
}

uint32_t SharedQueue::fetch() noexcept {
    if (sq_head_ == sq_tail_ || free_.empty() || in_flight_ + cq_used_ + 1 >= config_.cq_entries) {
        return kNone;
    }
    const uint32_t number = free_.back();
    free_.pop_back();
    RecordSlot &slot = slots_[number];
    copy_once(&slot.sqe, sq_pages_[sq_head_ / kSqePage] + size_t{sq_head_ % kSqePage} * sizeof(wire::Sqe),
              sizeof(wire::Sqe));
    slot.position = 0;
    ++fetched_;
    if (!MUTATED(command_not_recorded)) {
        store_recorded(slot.seq, fetched_);
    }
    store_recorded(header_->fetched, fetched_);
    sq_head_ = sq_head_ + 1 == config_.sq_entries ? 0 : sq_head_ + 1;
    ++in_flight_;
    return number;
}

void SharedQueue::complete(uint32_t number, uint16_t status, uint64_t result) noexcept {
    RecordSlot &slot = slots_[number];
    wire::Cqe cqe{};
    cqe.result = result;
    cqe.sqhd = static_cast<uint16_t>(sq_head_);
    cqe.sqid = static_cast<uint16_t>(config_.qid);
    cqe.cid = slot.sqe.cid;
    cqe.status = static_cast<uint16_t>(status | (phase_ ? kPhaseBit : 0));
    slot.cqe = cqe;
    if (!MUTATED(completion_not_noted)) {
        store_recorded(slot.position, completed_ + 1);
    }
    if (MUTATED(record_cleared_early)) {
        clear_recorded(slot);
    }
    write_completion(cqe);
    advance_completed();
    clear_recorded(slot);
    free_.push_back(number);
    --in_flight_;
}

// The second half has the phase, so the client sees it last. Both halves are aligned.
void SharedQueue::write_completion(const wire::Cqe &cqe) noexcept {
    auto *entry =
        reinterpret_cast<uint64_t *>(cq_pages_[cq_tail_ / kCqePage] + size_t{cq_tail_ % kCqePage} * sizeof(wire::Cqe));
    uint64_t second;
    std::memcpy(&second, &cqe.sqhd, sizeof second);
    std::atomic_ref<uint64_t>(entry[0]).store(cqe.result, std::memory_order_relaxed);
    std::atomic_ref<uint64_t>(entry[1]).store(second, std::memory_order_release);
}

void SharedQueue::advance_completed() noexcept {
    store_recorded(header_->completed, ++completed_);
    ++cq_used_;
    if (++cq_tail_ == config_.cq_entries) {
        cq_tail_ = 0;
        phase_ = !phase_;
    }
}

}  // namespace ftl
