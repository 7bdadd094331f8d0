// SPDX-License-Identifier: BSD-3-Clause
// The memory of one host queue: submission and completion queue, a page for the PRP list of each command, and a buffer
// for the data of each command whose own memory the server has not mapped. It lies in one sealed memfd. It is used for
// one connection only: a server that hangs may write into it at any time later.
#pragma once

#include <cstdint>
#include <stdexcept>

#include "base/page_memory.hpp"
#include "nvme/wire.hpp"

namespace ftl {

class SharedQueueMemory {
public:
    static constexpr uint32_t kDepthMax = 4095;
    static constexpr uint32_t kPage = 4096;
    static constexpr uint32_t kIoBytesMax = 1U << 20;  // its PRP list fits into a page

    // Throws std::invalid_argument or std::system_error.
    SharedQueueMemory(uint32_t depth, uint32_t max_io_bytes)
        : depth_(checked(depth, 1, kDepthMax, "queue_depth")),
          io_bytes_(checked(max_io_bytes, 1, kIoBytesMax, "max_io_bytes")),
          buffer_bytes_((io_bytes_ + kPage - 1) / kPage * kPage),
          cq_offset_(pages(entries() * sizeof(wire::Sqe))),
          lists_offset_(cq_offset_ + pages(entries() * sizeof(wire::Cqe))),
          buffers_offset_(lists_offset_ + uint64_t{depth_} * kPage),
          memory_(make(buffers_offset_ + uint64_t{depth_} * buffer_bytes_, fd_)) {}
    ~SharedQueueMemory() { ::close(fd_); }
    SharedQueueMemory(const SharedQueueMemory &) = delete;
    SharedQueueMemory &operator=(const SharedQueueMemory &) = delete;

    [[nodiscard]] int fd() const noexcept { return fd_; }
    [[nodiscard]] uint64_t bytes() const noexcept { return memory_.bytes(); }
    [[nodiscard]] uint32_t depth() const noexcept { return depth_; }
    // Of either queue: one more than commands, because a full queue has an empty entry.
    [[nodiscard]] uint32_t entries() const noexcept { return depth_ + 1; }
    [[nodiscard]] uint32_t io_bytes() const noexcept { return io_bytes_; }
    [[nodiscard]] uint64_t sq_offset() const noexcept { return 0; }
    [[nodiscard]] uint64_t cq_offset() const noexcept { return cq_offset_; }
    [[nodiscard]] uint64_t list_offset(uint32_t slot) const noexcept { return lists_offset_ + uint64_t{slot} * kPage; }
    [[nodiscard]] uint64_t buffer_offset(uint32_t slot) const noexcept {
        return buffers_offset_ + uint64_t{slot} * buffer_bytes_;
    }
    [[nodiscard]] uint8_t *at(uint64_t offset) const noexcept { return memory_.data() + offset; }

private:
    static uint32_t checked(uint32_t value, uint32_t least, uint32_t most, const char *name) {
        if (value < least || value > most) {
            throw std::invalid_argument(std::string(name) + " must be within " + std::to_string(least) + ".." +
                                        std::to_string(most));
        }
        return value;
    }
    static uint64_t pages(uint64_t bytes) noexcept { return (bytes + kPage - 1) / kPage * kPage; }
    static PageMemory make(uint64_t bytes, int &fd) {
        constexpr uint64_t unit = uint64_t{2} << 20;
        bytes = (bytes + unit - 1) / unit * unit;
        fd = shared_memory::sealed_file("spdk-ftl queue", bytes);
        try {
            return PageMemory::of_file(fd, bytes);
        } catch (...) {
            ::close(fd);
            throw;
        }
    }

    uint32_t depth_;
    uint32_t io_bytes_;
    uint32_t buffer_bytes_;
    uint64_t cq_offset_;
    uint64_t lists_offset_;
    uint64_t buffers_offset_;
    int fd_ = -1;
    PageMemory memory_;
};

}  // namespace ftl
