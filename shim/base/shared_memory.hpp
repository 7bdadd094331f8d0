// SPDX-License-Identifier: BSD-3-Clause
// The memory of this process that another one may map, because it lies in a file: where it is, and by which fd and
// offset. Owners (PageMemory) add it and remove it. A host queue in shared memory looks its data up here.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>

namespace ftl {

// What another process, which has the memory mapped, may do for us.
enum class Sharing : uint8_t {
    sends,  // it only reads: data that we write
    // It may also write into it, even late: a server that hangs may execute a command long after we have given it up.
    // So the owner does not use the memory for anything else once a device is lost.
    receives,
};

struct SharedRange {
    SharedRange(uint8_t *start, uint64_t size, int file, uint64_t file_offset, Sharing use)
        : data(start), bytes(size), fd(file), offset(file_offset), sharing(use) {}
    ~SharedRange();
    SharedRange(const SharedRange &) = delete;
    SharedRange &operator=(const SharedRange &) = delete;

    [[nodiscard]] bool holds(const void *start, uint64_t size) const noexcept {
        const auto at = reinterpret_cast<uintptr_t>(start) - reinterpret_cast<uintptr_t>(data);
        return at < bytes && size <= bytes - at;
    }

    uint8_t *const data;
    const uint64_t bytes;
    const int fd;           // ours, closed at the end
    const uint64_t offset;  // of data in the file
    const Sharing sharing;
    std::atomic<bool> gone{false};  // removed: the addresses may have another meaning now
};

// The registry of this process. Any thread.
namespace shared_memory {

// Takes a duplicate of fd. Throws std::system_error.
std::shared_ptr<SharedRange> add(uint8_t *data, uint64_t bytes, int fd, uint64_t offset, Sharing sharing);
// Before the memory is unmapped. No Io with this memory may be outstanding.
void remove(const std::shared_ptr<SharedRange> &range) noexcept;
// The range that has this address; null: none.
[[nodiscard]] std::shared_ptr<SharedRange> find(const void *address);
// Hot path: whether find() might find something. Takes no lock.
[[nodiscard]] bool may_hold(const void *address) noexcept;

// A memfd of that size, which nobody can shrink or grow, so that no access to it ever fails. Throws std::system_error.
[[nodiscard]] int sealed_file(const char *name, uint64_t bytes);

}  // namespace shared_memory

}  // namespace ftl
