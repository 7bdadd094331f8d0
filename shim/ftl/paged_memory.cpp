// SPDX-License-Identifier: BSD-3-Clause
#include "ftl/paged_memory.hpp"

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstring>
#include <stdexcept>
#include <thread>
#include <utility>

#include "base/mutation.hpp"

namespace ftl {
namespace {

// In the memory beside the frames.
constexpr uint64_t kZeroes = 0;
constexpr uint64_t kPeeked = 1;
constexpr uint64_t kJunk = 2;
constexpr uint64_t kApart = 3;

uint64_t pages_of(uint64_t bytes, const Paging &paging) {
    if (!std::has_single_bit(paging.page_bytes) || paging.page_bytes < PagedMemory::kPageBytesMin) {
        throw std::invalid_argument("page_bytes must be a power of two, and 64 at least");
    }
    return (bytes + paging.page_bytes - 1) / paging.page_bytes;
}

}  // namespace

uint64_t Paging::frames(uint64_t table_bytes) const noexcept {
    const auto part = static_cast<double>(table_bytes) / static_cast<double>(std::max<uint64_t>(of_bytes, 1));
    const auto pages = static_cast<uint64_t>(static_cast<double>(bytes) * part) / page_bytes;
    return std::max(pages, PagedMemory::kFramesMin);
}

PagedMemory::PagedMemory(uint64_t bytes, const Paging &paging)
    : shift_(static_cast<unsigned>(std::countr_zero(paging.page_bytes))),
      mask_(paging.page_bytes - 1),
      threads_(paging.threads ? PageThreads::shared() : nullptr),
      file_(paging.folder, pages_of(bytes, paging) * paging.page_bytes),
      place_(pages_of(bytes, paging), kNowhere),
      memory_(PageMemory::or_bad_alloc(paging.frames(bytes) * paging.page_bytes, Pages::sparse_huge)),
      page_of_(paging.frames(bytes), kNoPage),
      touched_(page_of_.size(), 0),
      dirty_(page_of_.size(), 0),
      leaving_(page_of_.size(), 0),
      bounce_(PageMemory::or_bad_alloc(uint64_t{kJobs} * paging.page_bytes, Pages::sparse)),
      apart_(PageMemory::or_bad_alloc(kApart * paging.page_bytes, Pages::sparse)) {
    // So many that have come can be used before the hand passes them twice.
    reads_most_ = static_cast<uint32_t>(std::min<size_t>(page_of_.size() / 4, kReadsMax));
    kept_frames_ = std::min<size_t>(page_of_.size() / 8, kKeptMax);
    free_.reserve(page_of_.size());
    for (size_t number = page_of_.size(); number-- > 0;) {
        free_.push_back(static_cast<uint32_t>(number));
    }
    idle_jobs_.reserve(kJobs);
    jobs_out_.reserve(kJobs);
    for (uint32_t number = 0; number < kJobs; ++number) {
        jobs_[number].fd = file_.fd();
        jobs_[number].bytes = paging.page_bytes;
        jobs_[number].wake = &wake_;
        idle_jobs_.push_back(number);
    }
}

PagedMemory::~PagedMemory() {
    wake_with(nullptr, nullptr);
}

void PagedMemory::wake_with(void (*wake)(void *context), void *context) noexcept {
    while (!jobs_out_.empty()) {
        wait_for_one();
    }
    while (wake_.jobs_out.load(std::memory_order_acquire) != 0) {
        std::this_thread::yield();
    }
    wake_.call = wake;
    wake_.context = context;
}

bool PagedMemory::transfer(uint64_t page, uint8_t *memory, bool writes) noexcept {
    const bool whole =
        PageThreads::transfer(file_.fd(), page << shift_, memory, static_cast<uint32_t>(page_bytes()), writes);
    if (!whole) {
        breaks();
    }
    ++(writes ? stats_.writes : stats_.reads);
    ++stats_.waits;
    return whole;
}

// The page is in no frame.
uint8_t *PagedMemory::fetched(uint64_t page, bool change) noexcept {
    if (place_[page] == kComing) {
        wait_for(page);
        if (place_[page] < kPlaces) {
            touched_[place_[page]] = 1;
            dirty_[place_[page]] |= change ? 1 : 0;
            return frame(place_[page]);
        }
    }
    if (place_[page] == kNowhere && !change) {
        return apart_.data() + (kZeroes << shift_);
    }
    const uint32_t number = take_frame();
    if (broken()) {
        return apart_.data() + (kJunk << shift_);
    }
    if (place_[page] == kNowhere) {
        std::memset(frame(number), 0, page_bytes());
    } else if (!transfer(page, frame(number), false)) {
        free_.push_back(number);
        return apart_.data() + (kJunk << shift_);
    }
    put(page, number, change);
    return frame(number);
}

void PagedMemory::put(uint64_t page, uint32_t number, bool change) noexcept {
    page_of_[number] = static_cast<uint32_t>(page);
    touched_[number] = 1;
    dirty_[number] = change ? 1 : 0;
    place_[page] = number;
    if (peeked_ == page) {
        peeked_ = kNoPage;
    }
}

const uint8_t *PagedMemory::peek(uint64_t offset) noexcept {
    const uint64_t page = offset >> shift_;
    if (place_[page] == kComing) {
        wait_for(page);
    }
    const uint32_t at = place_[page];
    if (at < kPlaces) {
        return frame(at) + (offset & mask_);
    }
    if (at == kNowhere) {
        return apart_.data() + (kZeroes << shift_) + (offset & mask_);
    }
    uint8_t *memory = apart_.data() + (kPeeked << shift_);
    if (peeked_ != page) {
        peeked_ = transfer(page, memory, false) ? static_cast<uint32_t>(page) : kNoPage;
    }
    return memory + (offset & mask_);
}

void PagedMemory::submit(PageJob &job) noexcept {
    if (threads_) {
        threads_->submit(job);
    } else {
        const bool whole = PageThreads::transfer(job.fd, job.offset, job.memory, job.bytes, job.writes);
        job.state.store(whole ? PageJob::done : PageJob::failed, std::memory_order_relaxed);
    }
}

// Without waiting.
bool PagedMemory::find_free(For whom) noexcept {
    const size_t left = whom == For::hosts ? kept_frames_ : 0;
    if (free_.size() <= left) {
        sweep(2 * page_of_.size(), left + 1, false);
    }
    return free_.size() > left;
}

bool PagedMemory::has_free_frame(For whom) noexcept {
    return find_free(whom) || jobs_out_.empty();
}

// Always false: the page comes later.
bool PagedMemory::start_read(uint64_t page, For whom) noexcept {
    const uint32_t most = whom == For::hosts ? reads_most_ - std::max(1U, reads_most_ / 4) : reads_most_;
    if (place_[page] == kComing || reads_out_ >= most || !find_free(whom)) {
        return false;
    }
    const uint32_t number = free_.back();
    free_.pop_back();
    PageJob &job = jobs_[idle_jobs_.back()];
    jobs_out_.push_back(idle_jobs_.back());
    idle_jobs_.pop_back();
    job.offset = page << shift_;
    job.memory = frame(number);
    job.writes = false;
    job.page = static_cast<uint32_t>(page);
    job.frame = number;
    place_[page] = kComing;
    ++reads_out_;
    ++stats_.reads;
    submit(job);
    return false;
}

// A copy of the frame is written, so the page may be changed meanwhile.
void PagedMemory::start_write(uint32_t number) noexcept {
    const uint32_t job_number = idle_jobs_.back();
    idle_jobs_.pop_back();
    jobs_out_.push_back(job_number);
    PageJob &job = jobs_[job_number];
    job.offset = uint64_t{page_of_[number]} << shift_;
    job.memory = bounce_.data() + (uint64_t{job_number} << shift_);
    job.writes = true;
    job.page = page_of_[number];
    job.frame = number;
    std::memcpy(job.memory, frame(number), page_bytes());
    dirty_[number] = 0;
    leaving_[number] = 1;
    ++stats_.writes;
    submit(job);
}

void PagedMemory::evict(uint32_t number) noexcept {
    place_[page_of_[number]] = kStored;
    page_of_[number] = kNoPage;
    free_.push_back(number);
}

// Moves the hand by so many frames, or until so many are free. It stops at a frame that can't be given up before others
// have been written.
void PagedMemory::sweep(uint64_t steps, size_t enough, bool wait) noexcept {
    for (; steps > 0 && free_.size() < enough; --steps) {
        const uint32_t number = hand_;
        const bool used = page_of_[number] != kNoPage && leaving_[number] == 0;
        if (used && touched_[number] != 0) {
            touched_[number] = 0;
        } else if (used && (dirty_[number] == 0 || MUTATED(l2p_page_not_written))) {
            evict(number);
        } else if (used && !wait) {
            if (jobs_out_.size() - reads_out_ >= kWritesMax) {
                return;
            }
            start_write(number);
        } else if (used && transfer(page_of_[number], frame(number), true)) {
            dirty_[number] = 0;
            evict(number);
        }
        hand_ = hand_ + 1 == page_of_.size() ? 0 : hand_ + 1;
    }
}

// A frame for a page that is needed now.
uint32_t PagedMemory::take_frame() noexcept {
    take_done();
    while (free_.empty()) {
        sweep(2 * page_of_.size(), 1, true);
        if (broken()) {
            return 0;
        }
        if (free_.empty()) {
            wait_for_one();  // all frames come or leave
        }
    }
    const uint32_t number = free_.back();
    free_.pop_back();
    return number;
}

void PagedMemory::take_done() noexcept {
    for (size_t i = 0; i < jobs_out_.size();) {
        const uint32_t job_number = jobs_out_[i];
        PageJob &job = jobs_[job_number];
        const uint32_t state = job.state.load(std::memory_order_acquire);
        if (state == PageJob::waits) {
            ++i;
            continue;
        }
        ++taken_;
        if (state == PageJob::failed) {
            breaks();
        }
        if (job.writes) {
            leaving_[job.frame] = 0;
        } else {
            --reads_out_;
            if (state == PageJob::done) {
                put(job.page, job.frame, false);
            } else {
                place_[job.page] = kStored;
                free_.push_back(job.frame);
            }
        }
        idle_jobs_.push_back(job_number);
        jobs_out_[i] = jobs_out_.back();
        jobs_out_.pop_back();
    }
}

void PagedMemory::wait_for_one() noexcept {
    if (!jobs_out_.empty()) {
        jobs_[jobs_out_.front()].state.wait(PageJob::waits, std::memory_order_acquire);
        take_done();
    }
}

void PagedMemory::wait_for(uint64_t page) noexcept {
    for (const uint32_t job_number : jobs_out_) {
        PageJob &job = jobs_[job_number];
        if (!job.writes && job.page == page) {
            ++stats_.waits;
            job.state.wait(PageJob::waits, std::memory_order_acquire);
            break;
        }
    }
    take_done();
}

void check_pages_of(const PagedMemory *one, const PagedMemory *other, const std::string &folder) {
    if ((one != nullptr && one->broken()) || (other != nullptr && other->broken())) {
        throw PageFileError(EIO, "pages of the L2P are lost", folder);
    }
}

uint32_t PagedMemory::run() noexcept {
    if (!jobs_out_.empty()) {
        take_done();
    }
    sweep(std::min<uint64_t>(kSweep, page_of_.size()), std::clamp<size_t>(page_of_.size() / 16, 1, kFreeMax), false);
    return std::exchange(taken_, 0);
}

}  // namespace ftl
