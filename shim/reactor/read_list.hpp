// SPDX-License-Identifier: BSD-3-Clause
// Reads blocks from many addresses in parallel, the same length from each, into the rows of one buffer. Loading a
// device with very many zones uses it. One io_done event reports that all reads have come back.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

#include "reactor/block_device.hpp"
#include "reactor/reactor.hpp"

namespace ftl {

class ReadList final : public Poller {
public:
    ReadList(Reactor &reactor, std::shared_ptr<BlockDevice> device, uint32_t depth);

    // Called by the submitter's thread, while idle(). `rows` has room for addresses.size() * block_count blocks.
    // `addresses` is not empty.
    void start(std::vector<uint64_t> addresses, uint32_t block_count, uint8_t *rows);
    // True if no list is running: none was started, or the event of the last one was sent or dropped.
    [[nodiscard]] bool idle() const noexcept {
        const State state = state_.load(std::memory_order_acquire);
        return state == State::idle || state == State::untold;
    }
    // Called by the submitter's thread. True, once for each list: the list is done and its event was dropped.
    [[nodiscard]] bool take_untold() noexcept;
    // Status of the last list: that of the first read that failed. No reads are sent after a failure.
    [[nodiscard]] Status status() const noexcept { return status_; }

    [[nodiscard]] const BlockDevice &device() const noexcept { return *device_; }
    [[nodiscard]] uint32_t id() const noexcept { return id_; }
    void set_id(uint32_t id) noexcept { id_ = id; }

    uint32_t poll(uint64_t now_ns) noexcept override;

private:
    enum class State : uint8_t { idle, running, untold };
    struct Slot {
        Io io;
        iovec iov{};
        ReadList *list = nullptr;
    };

    static void on_complete(Io &io) noexcept;

    Reactor &reactor_;
    std::shared_ptr<BlockDevice> device_;
    uint32_t id_ = 0;
    std::atomic<State> state_{State::idle};
    std::vector<uint64_t> addresses_;
    uint32_t block_count_ = 0;
    uint8_t *rows_ = nullptr;
    Status status_ = status::ok;
    size_t sent_ = 0;
    uint32_t completed_ = 0;
    std::vector<Slot> slots_;
    std::vector<Slot *> free_;
};

}  // namespace ftl
