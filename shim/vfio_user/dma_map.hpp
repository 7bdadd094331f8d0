// SPDX-License-Identifier: BSD-3-Clause
// The memory of a client, as far as it lets a server use it: regions of files, by the addresses (IOVA) by which
// commands name them.
//
// Queues on any reactor look regions up while regions are added and removed. They see a table that never changes: each
// change publishes another table, and waits until every reactor with a queue has ended the round in which it may have
// used the old one.
#pragma once

#include <sys/uio.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "reactor/reactor.hpp"
#include "vfio_user/guarded_mapping.hpp"

namespace ftl {

// Who lets devices use the memory after the round in which it was looked up.
class MemoryUser {
public:
    // Reactor thread. A device may be using some of that memory.
    [[nodiscard]] virtual bool uses(const uint8_t *begin, const uint8_t *end) const noexcept = 0;

protected:
    ~MemoryUser() = default;
};

class DmaMap {
public:
    static constexpr uint32_t kRegionsMax = 4096;
    static constexpr uint64_t kPageBytes = 4096;
    static constexpr auto kUnmapWait = std::chrono::seconds(1);

    struct Region {
        uint64_t iova;
        GuardedMapping mapping;
        bool writable;
    };
    using Regions = std::vector<std::shared_ptr<const Region>>;

    DmaMap() : table_(std::make_unique<const Table>()), published_(table_.get()) {}
    DmaMap(const DmaMap &) = delete;
    DmaMap &operator=(const DmaMap &) = delete;

    // Control path; any thread but a reactor's. All throw std::invalid_argument for what a client must not do.
    // Maps a part of a file. Takes no ownership of fd. Throws std::system_error.
    void map(uint64_t iova, uint64_t bytes, int fd, uint64_t offset, bool writable);
    // A region as it was mapped. Nothing finds it any more; queues in it stay mapped. Waits for those who use it, but
    // not longer than kUnmapWait: then it stays mapped for them until they are done.
    void unmap(uint64_t iova, uint64_t bytes);
    void clear();
    [[nodiscard]] size_t region_count();
    // Regions that were unmapped, and are still in use.
    [[nodiscard]] size_t lingering_count();
    // A file was shrunk, and some memory is not the client's any more.
    [[nodiscard]] bool broken() const noexcept { return broken_->load(std::memory_order_acquire); }
    [[nodiscard]] const std::shared_ptr<std::atomic<bool>> &broken_flag() const noexcept { return broken_; }

    // A reactor that looks regions up, until detach(); user: null: it uses nothing after the round.
    void attach(const std::shared_ptr<Reactor> &reactor, const MemoryUser *user);
    void detach(const std::shared_ptr<Reactor> &reactor, const MemoryUser *user);
    // The memory page by page, and the regions that keep it mapped. Throws std::invalid_argument if some of it is not
    // mapped, or not writable although it must be.
    [[nodiscard]] std::vector<uint8_t *> pages(uint64_t iova, uint64_t bytes, bool writable, Regions &keep);

    // Reactor thread. The memory from an address on: at most `bytes`, and less at the end of a region. Empty: it is not
    // mapped, or not writable although it must be. hint: the caller's, kept from one call to the next.
    [[nodiscard]] iovec find(uint64_t iova, uint64_t bytes, bool writable, uint32_t &hint) const noexcept;

private:
    struct Span {
        uint64_t begin;
        uint64_t end;
        uint8_t *data;
        bool writable;
    };
    struct Table {
        std::vector<Span> spans;  // sorted
        Regions regions;          // in the same order
    };

    [[nodiscard]] static iovec part(const Span &span, uint64_t iova, uint64_t bytes, bool writable) noexcept;
    [[nodiscard]] static std::unique_ptr<const Table> table_of(Regions regions);
    void publish(std::unique_ptr<const Table> table);
    [[nodiscard]] bool in_use(const Region &region) const;
    void release_unused();
    [[nodiscard]] bool lingers(const std::shared_ptr<const Region> &region);

    std::mutex mutex_;
    std::unique_ptr<const Table> table_;
    std::atomic<const Table *> published_;
    std::map<std::shared_ptr<Reactor>, uint32_t> readers_;
    std::map<const MemoryUser *, std::shared_ptr<Reactor>> users_;
    Regions lingering_;  // in no table
    const std::shared_ptr<std::atomic<bool>> broken_ = std::make_shared<std::atomic<bool>>(false);
};

}  // namespace ftl
