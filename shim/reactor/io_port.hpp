// SPDX-License-Identifier: BSD-3-Clause
// Access of the control plane to a BlockDevice: for superblocks, zone reports, restore and tests. It is bounded and
// asynchronous: submissions go to the reactor through a ring, and completions come back as io_done events.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "reactor/block_device.hpp"
#include "reactor/reactor.hpp"

namespace ftl {

struct IoRequest {
    Op op = Op::read;
    uint64_t lba = 0;
    uint32_t block_count = 0;
    uint8_t zone_action = 0;
    uint8_t zone_filter = 0;
    bool zone_all = false;
    bool fua = false;
    void *data = nullptr;
    size_t bytes = 0;
};

class IoPort final : public Poller {
public:
    IoPort(Reactor &reactor, std::shared_ptr<BlockDevice> device, uint32_t depth);

    // For the submitter's thread (one at a time). nullopt: `depth` I/Os are outstanding.
    std::optional<uint64_t> submit(const IoRequest &request);

    // Frees the slots of completed tickets. Calls reaped(slot) for each, so that the owner can release its buffer.
    template <typename Reaped>
    void reap(Reaped &&reaped) {
        for (uint32_t slot = 0; slot < slots_.size(); ++slot) {
            if (slots_[slot].state.load(std::memory_order_acquire) == State::done) {
                slots_[slot].state.store(State::free, std::memory_order_relaxed);
                reaped(slot);
            }
        }
    }
    // For the submitter's thread. Calls untold(ticket, status, result) for each answer whose event was dropped.
    template <typename Untold>
    void take_untold(Untold &&untold) {
        for (Slot &slot : slots_) {
            if (slot.state.load(std::memory_order_acquire) == State::untold) {
                untold(slot.ticket, slot.io.status, result_of(slot.io));
                slot.state.store(State::done, std::memory_order_relaxed);
            }
        }
    }
    [[nodiscard]] uint32_t slot_of(uint64_t ticket) const noexcept {
        return static_cast<uint32_t>(ticket % slots_.size());
    }
    [[nodiscard]] bool idle() const noexcept;
    [[nodiscard]] const BlockDevice &device() const noexcept { return *device_; }
    [[nodiscard]] uint32_t id() const noexcept { return id_; }
    void set_id(uint32_t id) noexcept { id_ = id; }

    uint32_t poll(uint64_t now_ns) noexcept override;

private:
    enum class State : uint8_t { free, queued, lent, done, untold };
    struct Slot {
        Io io;
        iovec iov{};
        uint64_t ticket = 0;
        IoPort *port = nullptr;
        std::atomic<State> state{State::free};
    };

    static void on_complete(Io &io) noexcept;
    // The result of an answer or, for an error, whether it had "do not retry".
    [[nodiscard]] static uint64_t result_of(const Io &io) noexcept {
        return io.status == status::ok ? io.result : uint64_t{io.do_not_retry};
    }

    Reactor &reactor_;
    std::shared_ptr<BlockDevice> device_;
    uint32_t id_ = 0;
    uint64_t generation_ = 1;
    std::vector<Slot> slots_;
    std::vector<uint32_t> ring_;  // submitted slots, in order
    std::atomic<uint64_t> head_{0};
    std::atomic<uint64_t> tail_{0};
    uint32_t completed_ = 0;
};

}  // namespace ftl
