// SPDX-License-Identifier: BSD-3-Clause
// Reads of one length from very many addresses, side by side, into the rows of one buffer: what a load of a device with
// very many zones asks for. One event, io_done, when all have come back.
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

    // The submitter's thread, while idle(). rows: addresses.size() times block_count blocks. Not empty.
    void start(std::vector<uint64_t> addresses, uint32_t block_count, uint8_t *rows);
    // Whether there is none, or the event of the last one was sent or taken.
    [[nodiscard]] bool idle() const noexcept {
        const State state = state_.load(std::memory_order_acquire);
        return state == State::idle || state == State::untold;
    }
    // The submitter's thread: whether the list is done and its event was dropped. Once for each.
    [[nodiscard]] bool take_untold() noexcept;
    // Of the last list: that of the first read that failed. No more are sent behind it.
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
