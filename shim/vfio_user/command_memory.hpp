// SPDX-License-Identifier: BSD-3-Clause
// The memory that a command names, in PRPs or an SGL, as iovecs. NVM Express Base 2.0, sections 4.1.1 and 4.1.2.
//
// The client can change lists while they are read. Each entry is read once, and then checked.
#pragma once

#include <sys/uio.h>

#include <cstdint>
#include <span>

#include "nvme/wire.hpp"
#include "vfio_user/dma_map.hpp"

namespace ftl {

// Reads memory of a client exactly once: the compiler can't make it read the memory again instead of the copy.
void copy_once(void *to, const void *from, size_t bytes) noexcept;

class CommandMemory {
public:
    static constexpr uint32_t kSglDescriptorsMax = 1024;  // of a command

    explicit CommandMemory(const DmaMap &map) noexcept : map_(map) {}

    // Points iovecs at exactly `length` bytes. to_client: they will be written. count: entries of `iov` that are used.
    [[nodiscard]] Status point(const wire::Sqe &sqe, uint32_t length, bool to_client, std::span<iovec> iov,
                               uint32_t &count) noexcept;

private:
    struct Pieces {
        std::span<iovec> iov;
        uint32_t count;
        uint32_t left;  // bytes
        bool to_client;
    };

    [[nodiscard]] Status prps(const wire::Sqe &sqe, Pieces &pieces) noexcept;
    [[nodiscard]] Status prp_list(uint64_t list, Pieces &pieces) noexcept;
    [[nodiscard]] Status add_page(uint64_t address, Pieces &pieces) noexcept;
    [[nodiscard]] Status sgl(const wire::Sgl &first, Pieces &pieces) noexcept;
    [[nodiscard]] Status sgl_block(const wire::Sgl &block, Pieces &pieces) noexcept;
    [[nodiscard]] Status add(uint64_t address, uint32_t bytes, Pieces &pieces) noexcept;

    const DmaMap &map_;
    uint32_t data_hint_ = 0;
    uint32_t list_hint_ = 0;
};

}  // namespace ftl
