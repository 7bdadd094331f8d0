// SPDX-License-Identifier: BSD-3-Clause
// A BlockDevice in front of another one that may be lost and replaced by a device with the same content, such as an
// FtlCore whose base is gone or a HostQpair whose connection broke. Users of the gate notice only a pause.
//
//   open     The gate forwards I/O to the device behind it. If that device is lost (BlockDevice::lost) and completes an
//            I/O with an error, the gate holds the I/O instead of completing it, and its state becomes
//   holding  The gate holds all new I/O, too, in order, until one of these is called:
//            set_device(next)  sends held I/O to `next`, in order, and opens the gate;
//            fail(status)      fails held and new I/O until a device is set.
//
// The next device may be larger than the last one, but not smaller. The gate then has the size of the next device.
//
// A write may have received its data in a lost device's memory (reserve()). It goes to the next device with the same
// iov, so the gate keeps that memory until the write is done. FUA writes get no such memory: before it was lost, the
// device may have accepted an FUA write, put part of it on media and reused those slots.
#pragma once

#include <atomic>
#include <memory>
#include <vector>

#include "reactor/block_device.hpp"
#include "reactor/device_poller.hpp"
#include "reactor/io_account.hpp"
#include "reactor/io_list.hpp"
#include "reactor/reactor.hpp"

namespace ftl {

class Gate final : public BlockDevice {
public:
    enum class State : uint8_t { open, holding, failing };

    struct Account {
        IoAccount io;
        State state = State::open;
        uint32_t held = 0;
    };

    // Throws std::invalid_argument if `device` is a gate: an Io has room for one gate only. accounts: the gate keeps an
    // account of the I/O that passes it, in some 60 KiB.
    Gate(std::shared_ptr<Reactor> reactor, std::shared_ptr<BlockDevice> device, bool accounts = false);
    // No Io may be outstanding. Issuers share ownership of the gate while they have outstanding Ios.
    ~Gate() override = default;

    [[nodiscard]] const BlockDeviceInfo &info() const noexcept override {
        return *info_.load(std::memory_order_acquire);
    }
    void submit(Io &io) noexcept override;
    uint32_t poll(uint64_t now_ns) noexcept override;
    [[nodiscard]] bool busy() const noexcept override { return !done_.empty(); }
    [[nodiscard]] uint64_t deadline_ns() const noexcept { return ~uint64_t{0}; }
    bool reserve(Io &io, uint32_t iov_room) noexcept override;
    void expect(uint64_t lba) const noexcept override;
    void abandon(Io &io) noexcept override;
    [[nodiscard]] const void *reserves() const noexcept override {
        return state_ == State::open && behind_->device->reserves() != nullptr ? behind_.get() : nullptr;
    }
    void adopt(Io &io, std::span<Io *const> parts) noexcept override;
    // While there is no device: what the last one said when it was asked.
    [[nodiscard]] uint64_t allocated_blocks() override;
    void cancel(Io &io) noexcept override;  // no later device gets the Io, held or still outstanding

    // Orders. Any thread but the reactor's may give them. Each order also releases earlier devices that are no longer
    // used.
    void hold();  // for an open gate: the device behind it is lost
    // Throws std::invalid_argument, and changes nothing, if hosts would notice a difference.
    void set_device(std::shared_ptr<BlockDevice> device);
    void fail(Status status);
    // True: the gate keeps only the current device.
    bool sweep();
    // True: every Io at another device has come back. The data of held Ios may still be in an earlier device's memory.
    [[nodiscard]] bool emptied();

    [[nodiscard]] State state();
    [[nodiscard]] uint32_t held();
    // A copy, taken on the reactor's thread. Throws std::logic_error if the gate keeps no account.
    [[nodiscard]] std::unique_ptr<const Account> account();

private:
    // A device, with the number of Ios that are at it or have their data in its memory.
    struct Behind {
        Gate *gate;
        std::shared_ptr<BlockDevice> device;
        uint64_t users = 0;
        uint64_t sent = 0;  // Ios that are at the device
    };
    using Behinds = std::vector<std::unique_ptr<Behind>>;

    void forward(Io &io) noexcept;
    void came_back(Io &io, const Behind &from) noexcept;
    void give_back(Io &io) noexcept;
    static void release_memory(Io &io) noexcept;
    static void on_complete(Io &io) noexcept;
    // Control path: the caller destroys the devices, not the reactor's thread.
    void retire(Behinds &unused);
    void take_unused(Behinds &unused);

    // Infos are never changed or freed, so that references stay valid. The last one is current.
    std::vector<std::unique_ptr<const BlockDeviceInfo>> infos_;
    std::atomic<const BlockDeviceInfo *> info_;
    State state_ = State::open;
    Status failure_ = status::ok;     // in state failing
    std::unique_ptr<Behind> behind_;  // set when open, and when holding until an order retires it
    Behinds earlier_;
    IoList held_;
    IoList done_;  // poll() completes these
    const std::unique_ptr<IoAccount> account_;
    std::atomic<uint64_t> allocated_{0};
    PollerRegistration registration_;
};

}  // namespace ftl
