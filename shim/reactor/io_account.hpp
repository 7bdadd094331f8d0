// SPDX-License-Identifier: BSD-3-Clause
// Account of the I/O that passes a gate: how long each kind takes, and which errors it ends with. Times are the
// reactor's, which reads the clock once per round of polls, so a latency is exact to about one round.
#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <optional>

#include "base/latency_histogram.hpp"
#include "reactor/block_device.hpp"
#include "reactor/error_class.hpp"

namespace ftl {

// What a host can ask of the FTL. Numbers index IoAccount.
enum class IoKind : uint8_t { read, write, flush, trim };
inline constexpr size_t kIoKinds = 4;

[[nodiscard]] constexpr std::optional<IoKind> io_kind(Op op) noexcept {
    switch (op) {
        case Op::read:
            return IoKind::read;
        case Op::write:
        case Op::compare_write:
        case Op::write_uncorrectable:
            return IoKind::write;
        case Op::flush:
            return IoKind::flush;
        case Op::write_zeroes:
        case Op::deallocate:
            return IoKind::trim;
        case Op::append:
        case Op::zone_send:
        case Op::zone_report:
            break;
    }
    return std::nullopt;
}

// Latencies of one kind. The histogram gives percentiles; `within` counts by fixed bounds, which never change, so that
// counts of different times and machines can be added and subtracted.
class IoLatency {
public:
    // Bound i is 2^i us: 1 us to 16.8 s. The last count is of longer ones.
    static constexpr size_t kBounds = 25;
    static constexpr uint64_t kNsPerUs = 1000;

    void add(uint64_t ns) noexcept {
        values_.add(ns);
        const size_t bound = ns <= kNsPerUs ? 0 : static_cast<size_t>(std::bit_width((ns - 1) / kNsPerUs));
        ++within_[bound < kBounds ? bound : kBounds];
    }
    [[nodiscard]] const LatencyHistogram &values() const noexcept { return values_; }
    // How many took no longer than bound i, but longer than the one before it; i == kBounds: longer than all bounds.
    [[nodiscard]] uint64_t within(size_t i) const noexcept { return within_[i]; }

private:
    LatencyHistogram values_;
    std::array<uint64_t, kBounds + 1> within_{};
};

class IoAccount {
public:
    static constexpr size_t kErrorClasses = static_cast<size_t>(ErrorClass::mistake) + 1;

    // Io::status, op and do_not_retry are those of the completed Io.
    void add(const Io &io, uint64_t ns) noexcept {
        const std::optional<IoKind> kind = io_kind(io.op);
        if (!kind) {
            return;
        }
        Each &each = kinds_[static_cast<size_t>(*kind)];
        each.latency.add(ns);
        // A comparison that fails has done what the host asked for.
        if (io.status != status::ok && io.status != status::compare_failure) [[unlikely]] {
            ++each.errors[static_cast<size_t>(error_class(io.op, io.status, io.do_not_retry))];
        }
    }
    [[nodiscard]] const IoLatency &latency(IoKind kind) const noexcept {
        return kinds_[static_cast<size_t>(kind)].latency;
    }
    [[nodiscard]] uint64_t errors(IoKind kind, ErrorClass error) const noexcept {
        return kinds_[static_cast<size_t>(kind)].errors[static_cast<size_t>(error)];
    }

private:
    struct Each {
        IoLatency latency;
        std::array<uint64_t, kErrorClasses> errors{};
    };
    std::array<Each, kIoKinds> kinds_{};
};

}  // namespace ftl
