// SPDX-License-Identifier: BSD-3-Clause
#include "virtual/meter.hpp"

#include <algorithm>
#include <chrono>
#include <utility>

namespace ftl {
namespace {

// The reactor's cached time would show many latencies as 0.
uint64_t clock_ns() noexcept {
    const auto now = std::chrono::steady_clock::now().time_since_epoch();
    return static_cast<uint64_t>(std::chrono::duration_cast<std::chrono::nanoseconds>(now).count());
}

void reset_extremes(MeterCount &count) noexcept {
    count.latency_ns_max = 0;
    count.latency_ns_min = ~uint64_t{0};
}

}  // namespace

Meter::Meter(std::shared_ptr<Reactor> reactor, std::shared_ptr<BlockDevice> base)
    : Forwarder(std::move(base)), registration_(std::move(reactor), *this) {}

void Meter::begin(Io &io) noexcept {
    io.device_data[kOwn] = clock_ns();
    send(io);
}

void Meter::came_back(Io &io) noexcept {
    if (io.status == status::ok) {
        MeterCount *count = nullptr;
        switch (io.op) {
            case Op::read:
                count = &stats_.read;
                break;
            case Op::write:
            case Op::append:
                count = &stats_.write;
                break;
            case Op::deallocate:
                count = &stats_.unmap;
                break;
            case Op::flush:
            case Op::write_zeroes:
            case Op::zone_send:
            case Op::zone_report:
            case Op::compare_write:
            case Op::write_uncorrectable:
                break;  // SPDK does not count these
        }
        if (count != nullptr) {
            const uint64_t latency_ns = clock_ns() - io.device_data[kOwn];
            ++count->operations;
            count->bytes += uint64_t{io.block_count} * info_.block_bytes;
            count->latency_ns += latency_ns;
            count->latency_ns_max = std::max(count->latency_ns_max, latency_ns);
            count->latency_ns_min = std::min(count->latency_ns_min, latency_ns);
        }
    } else if (io.status == status::internal_error) {
        ++stats_.failed;
    } else if (io.status == status::aborted) {
        ++stats_.aborted;
    } else {
        ++stats_.nvme_error;
    }
    io.complete(io);
}

MeterStats Meter::stats(Reset reset) {
    MeterStats result;
    registration_.reactor().call([&] {
        result = stats_;
        switch (reset) {
            case Reset::none:
                break;
            case Reset::maxmin:
                reset_extremes(stats_.read);
                reset_extremes(stats_.write);
                reset_extremes(stats_.unmap);
                break;
            case Reset::error:
                stats_.failed = stats_.aborted = stats_.nvme_error = 0;
                break;
            case Reset::all:
                stats_ = MeterStats();
                break;
        }
    });
    return result;
}

void Meter::resize(uint64_t block_count) {
    registration_.reactor().call([&] { info_.block_count = block_count; });
}

}  // namespace ftl
