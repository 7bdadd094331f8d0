// SPDX-License-Identifier: BSD-3-Clause
// A mapping of a file that another process may shrink at any time. An access to what is no longer there raises SIGBUS.
// The handler, which is installed with the first such mapping and serves the whole process, maps anonymous memory over
// the mapping instead and sets a flag, so that the access continues.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>

namespace ftl {

class GuardedMapping {
public:
    static constexpr uint32_t kMappingsMax = 1U << 16;  // in a process

    // broken: set if the file was shrunk. Throws std::invalid_argument if the file is too short now, or not in memory
    // (a file system that does not answer would stop the reactor), and std::system_error.
    GuardedMapping(int fd, uint64_t offset, uint64_t bytes, bool writable, std::shared_ptr<std::atomic<bool>> broken);
    ~GuardedMapping();
    GuardedMapping(const GuardedMapping &) = delete;
    GuardedMapping &operator=(const GuardedMapping &) = delete;

    [[nodiscard]] uint8_t *data() const noexcept { return data_; }
    [[nodiscard]] uint64_t bytes() const noexcept { return bytes_; }

private:
    uint8_t *data_ = nullptr;
    uint64_t bytes_;
    uint64_t mapped_bytes_;
    uint32_t place_ = 0;  // in the table of the handler
    std::shared_ptr<std::atomic<bool>> broken_;
};

}  // namespace ftl
