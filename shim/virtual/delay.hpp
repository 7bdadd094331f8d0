// SPDX-License-Identifier: BSD-3-Clause
// A slow device: reads and writes complete later than the base completes them, as with SPDK's delay bdev. One in a
// hundred, chosen at random, has the p99 latency, the others have the average one. Other operations are not delayed.
//
// I/O of one kind completes in order. So after a latency was lowered, new I/O waits for I/O with the old latency, as in
// SPDK.
#pragma once

#include <array>
#include <memory>

#include "base/prng.hpp"
#include "virtual/forwarder.hpp"

namespace ftl {

class Delay final : public Forwarder {
public:
    enum Kind : uint8_t { avg_read, p99_read, avg_write, p99_write };
    static constexpr size_t kKinds = 4;
    using Latencies = std::array<uint64_t, kKinds>;  // ns, by Kind

    Delay(std::shared_ptr<Reactor> reactor, std::shared_ptr<BlockDevice> base, const Latencies &latencies_ns);

    uint32_t poll(uint64_t now_ns) noexcept override;
    [[nodiscard]] uint64_t deadline_ns() const noexcept;
    void cancel(Io &io) noexcept override;

    // Control path; any thread but the reactor's.
    void set_latency(Kind kind, uint64_t latency_ns);

private:
    static constexpr uint64_t kOneIn = 100;

    void came_back(Io &io) noexcept override;

    Latencies latencies_ns_;
    std::array<IoList, kKinds> held_;
    Prng prng_{1};
    PollerRegistration registration_;
};

}  // namespace ftl
