// SPDX-License-Identifier: BSD-3-Clause
// The doorbells of a controller, mapped from the file of its BAR0, which belongs to the server.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>

#include "vfio_user/guarded_mapping.hpp"

namespace ftl {

class Doorbells {
public:
    // Maps `bytes` bytes from `offset` of the file. Throws std::invalid_argument if the file is smaller, and
    // std::system_error.
    Doorbells(int fd, uint64_t offset, uint64_t bytes)
        : broken_(std::make_shared<std::atomic<bool>>(false)), memory_(fd, offset, bytes, true, broken_) {}

    [[nodiscard]] uint64_t bytes() const noexcept { return memory_.bytes(); }
    // Everything that was written to memory before is visible to whoever sees the new value. `at`: below bytes().
    void ring(uint64_t at, uint32_t value) const noexcept {
        std::atomic_ref<uint32_t>(*reinterpret_cast<uint32_t *>(memory_.data() + at))
            .store(value, std::memory_order_release);
    }
    // The server has shrunk the file.
    [[nodiscard]] bool broken() const noexcept { return broken_->load(std::memory_order_relaxed); }

private:
    std::shared_ptr<std::atomic<bool>> broken_;
    GuardedMapping memory_;
};

}  // namespace ftl
