// SPDX-License-Identifier: BSD-3-Clause
// A table that is larger than the memory it may take. Its pages are in a file without a name; some are in frames of
// memory, too: those that were used last, as a clock with one hand finds them. A page that was never written is all
// zeroes, and takes no memory and no I/O. The file is scratch: it ends with this object.
//
// One thread at a time uses it. read() and write() wait for a page that is not in memory. A thread that must not wait
// asks with want() before, and goes on when the page has come: threads of the process read and write the file.
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/page_memory.hpp"
#include "ftl/page_threads.hpp"

namespace ftl {

// Where tables have their pages, and how much memory they may take.
struct Paging {
    std::string folder;          // empty: everything is in memory
    uint64_t bytes = 0;          // of memory, for all tables together
    uint64_t of_bytes = 0;       // what all tables have together
    uint32_t page_bytes = 4096;  // a power of two; tests have smaller ones
    bool threads = true;         // false: pages come in the using thread, so that a simulation can be repeated

    [[nodiscard]] bool pages() const noexcept { return !folder.empty() && bytes < of_bytes; }
    // The frames of a table with so many bytes.
    [[nodiscard]] uint64_t frames(uint64_t table_bytes) const noexcept;
};

class PagedMemory {
public:
    static constexpr uint64_t kFramesMin = 8;
    static constexpr uint32_t kPageBytesMin = 64;

    struct Stats {
        uint64_t reads = 0;   // pages that came from the file
        uint64_t writes = 0;  // pages that went to it
        uint64_t waits = 0;   // of both, those that the using thread waited for
    };

    // The file has room for all bytes, so writes to it do not fail for lack of room. Throws PageFileError if it cannot
    // be made, std::bad_alloc.
    PagedMemory(uint64_t bytes, const Paging &paging);
    ~PagedMemory();
    PagedMemory(const PagedMemory &) = delete;
    PagedMemory &operator=(const PagedMemory &) = delete;

    // The bytes at the offset, up to the end of its page. They are valid until the next call.
    [[nodiscard]] const uint8_t *read(uint64_t offset) noexcept {
        const uint32_t at = place_[offset >> shift_];
        if (at < kPlaces) [[likely]] {
            touched_[at] = 1;
            return frame(at) + (offset & mask_);
        }
        return fetched(offset >> shift_, false) + (offset & mask_);
    }
    // The same, to change them.
    [[nodiscard]] uint8_t *write(uint64_t offset) noexcept {
        const uint32_t at = place_[offset >> shift_];
        if (at < kPlaces) [[likely]] {
            touched_[at] = 1;
            dirty_[at] = 1;
            return frame(at) + (offset & mask_);
        }
        return fetched(offset >> shift_, true) + (offset & mask_);
    }
    // Like read(), for who reads all pages once: no other page leaves memory for it.
    [[nodiscard]] const uint8_t *peek(uint64_t offset) noexcept;
    // Who asks: hosts leave some of the reads and frames to the core's own work, or this would wait as long as they
    // read.
    enum class For : uint8_t { hosts, core };
    // Whether read() and write() need not wait for the page. If not, it is on its way, or can be when others have come
    // or gone: the owner is woken then, and asks again.
    bool want(uint64_t offset, For whom) noexcept {
        const uint32_t at = place_[offset >> shift_];
        if (at < kPlaces) [[likely]] {
            touched_[at] = 1;
            return true;
        }
        return at == kNowhere ? has_free_frame(whom) : start_read(offset >> shift_, whom);
    }
    // The same for all pages of a range of bytes. Of a range that would take most frames, only the first ones.
    bool want_range(uint64_t offset, uint64_t bytes, For whom) noexcept {
        const uint64_t end = std::min(offset + bytes, (offset & ~mask_) + (page_of_.size() / 4) * page_bytes());
        bool all = true;
        for (uint64_t at = offset & ~mask_; at < end; at += page_bytes()) {
            all &= want(at, whom);
        }
        return all;
    }
    // Takes the pages that have come, and writes others out ahead, so that frames are free. Returns the number of pages
    // that have come or gone.
    uint32_t run() noexcept;
    // The next run() takes pages without anybody waking the owner.
    [[nodiscard]] bool goes_on() const noexcept { return taken_ > 0 || (!threads_ && !jobs_out_.empty()); }
    // A page could not be read or written. From then on, content is wrong: nothing that was read may be acted upon. Any
    // thread.
    [[nodiscard]] bool broken() const noexcept { return broken_.load(std::memory_order_relaxed); }
    [[nodiscard]] uint64_t page_bytes() const noexcept { return mask_ + 1; }
    [[nodiscard]] const Stats &stats() const noexcept { return stats_; }
    [[nodiscard]] uint64_t frame_count() const noexcept { return page_of_.size(); }

    // wake(context) is called by another thread whenever a page has come or gone. Waits for those on their way.
    void wake_with(void (*wake)(void *context), void *context) noexcept;

    // For tests: all I/O of all tables fails from now on, or works again.
    static void fail_io(bool fails) noexcept { PageThreads::fail_io(fails); }

private:
    static constexpr uint32_t kNowhere = ~0U;      // never written: zeroes
    static constexpr uint32_t kStored = ~0U - 1;   // only in the file
    static constexpr uint32_t kComing = ~0U - 2;   // a job reads it
    static constexpr uint32_t kPlaces = ~0U - 16;  // below: a frame
    static constexpr uint32_t kNoPage = ~0U;
    static constexpr uint32_t kJobs = 128;
    static constexpr uint32_t kWritesMax = kJobs / 2;
    static constexpr uint32_t kReadsMax = kJobs - kWritesMax;
    static constexpr size_t kKeptMax = 16;
    static constexpr uint32_t kFreeMax = 128;  // frames that are kept free
    static constexpr uint32_t kSweep = 256;    // frames that the hand passes in a run()

    [[nodiscard]] uint8_t *frame(uint32_t number) const noexcept {
        return memory_.data() + (uint64_t{number} << shift_);
    }
    uint8_t *fetched(uint64_t page, bool change) noexcept;
    void submit(PageJob &job) noexcept;
    bool has_free_frame(For whom) noexcept;
    [[nodiscard]] bool find_free(For whom) noexcept;
    bool start_read(uint64_t page, For whom) noexcept;
    void start_write(uint32_t number) noexcept;
    uint32_t take_frame() noexcept;
    void sweep(uint64_t steps, size_t enough, bool wait) noexcept;
    void put(uint64_t page, uint32_t number, bool change) noexcept;
    void evict(uint32_t number) noexcept;
    void take_done() noexcept;
    void wait_for_one() noexcept;
    void wait_for(uint64_t page) noexcept;
    void breaks() noexcept { broken_.store(true, std::memory_order_relaxed); }
    [[nodiscard]] bool transfer(uint64_t page, uint8_t *memory, bool writes) noexcept;

    unsigned shift_;
    uint64_t mask_;
    std::shared_ptr<PageThreads> threads_;
    PageFile file_;
    std::vector<uint32_t> place_;  // by page
    PageMemory memory_;
    std::vector<uint32_t> page_of_;  // by frame; kNoPage: free, or a job reads into it
    std::vector<uint8_t> touched_;   // by frame: since the hand has passed
    std::vector<uint8_t> dirty_;     // changed since it was written to the file
    std::vector<uint8_t> leaving_;   // a job writes its content, as it was, to the file
    std::vector<uint32_t> free_;
    uint32_t hand_ = 0;
    std::array<PageJob, kJobs> jobs_;
    PageMemory bounce_;  // what jobs write
    std::vector<uint32_t> idle_jobs_;
    std::vector<uint32_t> jobs_out_;
    uint32_t reads_out_ = 0;
    uint32_t taken_ = 0;       // jobs, since run() has counted them
    size_t kept_frames_ = 0;   // free frames that hosts leave
    uint32_t reads_most_ = 0;  // at once
    PageMemory apart_;         // zeroes; the page of peek(); one for what must not be kept
    uint32_t peeked_ = kNoPage;
    PageWake wake_;
    Stats stats_;
    std::atomic<bool> broken_{false};
};

// Both may be null. Throws PageFileError if one is broken.
void check_pages_of(const PagedMemory *one, const PagedMemory *other, const std::string &folder);

}  // namespace ftl
