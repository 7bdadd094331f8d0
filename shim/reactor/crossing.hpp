// SPDX-License-Identifier: BSD-3-Clause
// A device on another reactor, as a BlockDevice of this one: issuers on the front's reactor submit to the crossing, and
// the device behind it is only ever touched by the core's. Ios go over by pointer, and come back the same way.
//
//   front's reactor                            core's reactor
//   issuer → Crossing ── Ios, cancels ──→ Landing → device (a Gate)
//            Crossing ←─ Ios, leases ──── Landing
//
// Neither side ever waits for the other. Items go through mailboxes, and a sender wakes a sleeping reactor once for all
// items of a round.
//
// Leases. reserve() must answer at once, but the device's memory belongs to the core's thread. So the landing reserves
// blocks ahead, one lease each, and the front gives them to its writes: their data is received straight into the
// device's memory, and its CRC is computed, on the front's thread. submit() hands the leases over together with the Io,
// where they become what the device would have reserved for it (BlockDevice::adopt()). A front without leases lets
// issuers use memory of their own, as a device without room does. The landing gets leases back
//   - if the device has no more room, so that leases which nobody uses can't starve others
//   - if the device no longer hands out memory of that kind (a gate has another device behind it), so that a lost
//     device can be freed.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "reactor/block_device.hpp"
#include "reactor/device_poller.hpp"
#include "reactor/io_list.hpp"
#include "reactor/mailbox.hpp"
#include "reactor/reactor.hpp"

namespace ftl {

// One block of the device's memory, reserved ahead.
struct Lease {
    Io io;  // what the block is reserved for, until an Io adopts it
    iovec iov{};
    const void *memory =
        nullptr;  // BlockDevice::reserves() when it was reserved. Null: the landing has it, and it is empty
    Lease *link = nullptr;
};

// The end of a crossing on the core's reactor, which owns it. Only Crossing uses it.
class Landing final : public Poller {
public:
    Landing(std::shared_ptr<Reactor> front, Reactor &core, std::shared_ptr<BlockDevice> device, uint32_t leases);

    uint32_t poll(uint64_t now_ns) noexcept override;
    [[nodiscard]] bool busy() const noexcept override { return wakes_; }
    [[nodiscard]] uint64_t deadline_ns() const noexcept override { return refill_at_ns_; }

    // The mailboxes, each with its sender.
    Mailbox<Io, &Io::next> sent;                  // front
    Mailbox<Io, &Io::crossed_cancel> cancels;     // front
    Mailbox<Lease, &Lease::link> returned;        // front
    Mailbox<Io, &Io::next> done;                  // core
    Mailbox<Lease, &Lease::link> filled;          // core
    std::atomic<uint64_t> cancels_seen{0};        // core: cancels that it has done
    std::atomic<const void *> reserves{nullptr};  // core: leases of other memory are to come back; null: all of them
    std::atomic<bool> wants_leases{false};        // front: it has writes
    std::atomic<bool> closing{false};             // front: it is gone, and has left everything here

    void leave() noexcept;  // idempotent
    void set_id(uint32_t id) noexcept { id_ = id; }
    [[nodiscard]] BlockDevice &device() const noexcept { return *device_; }

private:
    static constexpr uint64_t kNoRefill = ~uint64_t{0};
    static constexpr uint64_t kScarceNs =
        1'000'000;  // how long the device may recover before leases are reserved again

    static void on_complete(Io &io) noexcept;
    void submit(Io &io) noexcept;
    void release(Lease &lease) noexcept;
    uint32_t refill(uint64_t now_ns) noexcept;

    const std::shared_ptr<Reactor> front_;  // a poll that began before the crossing was destroyed may still wake it
    Reactor &core_;
    uint32_t id_ = 0;
    std::shared_ptr<BlockDevice> device_;
    std::vector<Lease> leases_;
    Lease *empty_ = nullptr;
    std::vector<Io *> parts_;
    uint64_t refill_at_ns_ = kNoRefill;  // when a device without room is asked again
    bool wakes_ = false;                 // the front has something to take
};

class Crossing final : public BlockDevice {
public:
    struct Stats {
        uint64_t ios = 0;
        uint64_t leased_blocks = 0;  // blocks of writes that were received into the device's memory
        uint32_t leases = 0;         // at the front now, in use or not
    };

    // leases: the most blocks that are reserved ahead. Throws std::invalid_argument if the device is a crossing: an Io
    // has room for one only. Control path.
    Crossing(std::shared_ptr<Reactor> front, std::shared_ptr<Reactor> core, std::shared_ptr<BlockDevice> device,
             uint32_t leases);
    // No Io may be outstanding. Any thread, and it waits for the front's reactor alone: the landing leaves the core's
    // by itself, or here if that one has no thread.
    ~Crossing() override;

    [[nodiscard]] const BlockDeviceInfo &info() const noexcept override { return landing_->device().info(); }
    void submit(Io &io) noexcept override;
    uint32_t poll(uint64_t now_ns) noexcept override;
    [[nodiscard]] bool busy() const noexcept override { return wakes_; }
    [[nodiscard]] uint64_t deadline_ns() const noexcept { return ~uint64_t{0}; }
    bool reserve(Io &io, uint32_t iov_room) noexcept override;
    void abandon(Io &io) noexcept override;
    void cancel(Io &io) noexcept override;
    [[nodiscard]] uint64_t allocated_blocks() override { return landing_->device().allocated_blocks(); }
    // lost() is false, as that of a gate: a device that may be lost stands behind a gate, on its own reactor.

    [[nodiscard]] Stats stats();

private:
    void complete(Io &io) noexcept;
    void give_back(Lease &lease) noexcept;
    void take_leases() noexcept;
    void keep(Lease &lease) noexcept;

    std::shared_ptr<Reactor> core_;
    std::shared_ptr<Landing> landing_;
    const bool leases_at_all_;
    const void *memory_ = nullptr;  // leases of other memory go back
    Lease *free_ = nullptr;
    uint32_t free_count_ = 0;
    IoList early_;  // done, but the landing has not seen their cancel yet
    uint64_t cancels_sent_ = 0;
    Stats stats_;
    bool wakes_ = false;  // the core has something to take
    std::optional<PollerRegistration> registration_;
};

}  // namespace ftl
