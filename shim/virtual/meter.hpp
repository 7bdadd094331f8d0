// SPDX-License-Identifier: BSD-3-Clause
// Counts the I/O of a device: what SPDK's bdev layer counts for bdev_get_iostat.
#pragma once

#include <memory>

#include "virtual/forwarder.hpp"

namespace ftl {

struct MeterCount {
    uint64_t operations = 0;
    uint64_t bytes = 0;
    uint64_t latency_ns = 0;  // of all operations
    uint64_t latency_ns_max = 0;
    uint64_t latency_ns_min = ~uint64_t{0};  // ~0: none yet
};

// Only I/O that succeeded is in read, write and unmap. Appends count as writes.
struct MeterStats {
    MeterCount read;
    MeterCount write;
    MeterCount unmap;
    uint64_t failed = 0;      // with SPDK's general error, 00/06
    uint64_t aborted = 0;     // with 00/07
    uint64_t nvme_error = 0;  // with any other status
};

class Meter final : public Forwarder {
public:
    enum class Reset : uint8_t { none, maxmin, error, all };  // SPDK's modes

    Meter(std::shared_ptr<Reactor> reactor, std::shared_ptr<BlockDevice> base);

    // Control path; any thread but the reactor's.
    [[nodiscard]] MeterStats stats(Reset reset);
    void resize(uint64_t block_count);

private:
    void begin(Io &io) noexcept override;
    void came_back(Io &io) noexcept override;

    MeterStats stats_;
    PollerRegistration registration_;
};

}  // namespace ftl
