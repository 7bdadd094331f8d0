// SPDX-License-Identifier: BSD-3-Clause
// A BlockDevice in front of one that may be lost and replaced by another with the same content: an FtlCore whose base
// went away, a HostQpair whose connection broke. Who uses the gate notices a pause.
//
//   open     I/O goes to the device behind. What a lost device (BlockDevice::lost) answers with an error is not
//            completed but held, and then
//   holding  all that comes is held too, in order, until
//   set_device(next): what is held goes to it, in order, and the gate is open; or
//   fail(status): what is held, and all that comes, fails, until a device is set.
//
// The next device may be larger, never smaller: the gate is as large as it from then on.
//
// A write whose data were received into a lost device's memory (reserve()) goes to the next one with its iov, so that
// memory is kept until the write is done. FUA writes get no such memory: a device may have accepted one, put part of it
// on media and used those slots again by the time it is lost.
#pragma once

#include <atomic>
#include <memory>
#include <vector>

#include "reactor/block_device.hpp"
#include "reactor/device_poller.hpp"
#include "reactor/io_list.hpp"
#include "reactor/reactor.hpp"

namespace ftl {

class Gate final : public BlockDevice {
public:
    enum class State : uint8_t { open, holding, failing };

    // Throws std::invalid_argument for another gate: an Io has room for one.
    Gate(std::shared_ptr<Reactor> reactor, std::shared_ptr<BlockDevice> device);
    // No Io may be outstanding: issuers share ownership of the gate while they have some.
    ~Gate() override = default;

    [[nodiscard]] const BlockDeviceInfo &info() const noexcept override {
        return *info_.load(std::memory_order_acquire);
    }
    void submit(Io &io) noexcept override;
    uint32_t poll(uint64_t now_ns) noexcept override;
    [[nodiscard]] bool busy() const noexcept override { return !done_.empty(); }
    [[nodiscard]] uint64_t deadline_ns() const noexcept { return ~uint64_t{0}; }
    bool reserve(Io &io, uint32_t iov_room) noexcept override;
    void abandon(Io &io) noexcept override;
    void cancel(Io &io) noexcept override;  // the next device does not get the Io, whether it is held or will come back

    // Orders: from any thread but the reactor's. Each also releases earlier devices that nothing uses any more.
    void hold();  // an open gate: the device behind is lost
    // Throws std::invalid_argument, and changes nothing, if hosts would notice a difference.
    void set_device(std::shared_ptr<BlockDevice> device);
    void fail(Status status);
    // True: only the present device is kept.
    bool sweep();
    // True: every Io at another device has come back. Data of held Ios may be in the memory of an earlier device.
    [[nodiscard]] bool emptied();

    [[nodiscard]] State state();
    [[nodiscard]] uint32_t held();

private:
    // A device, and the number of Ios that are at it, or have their data in its memory.
    struct Behind {
        Gate *gate;
        std::shared_ptr<BlockDevice> device;
        uint64_t users = 0;
        uint64_t sent = 0;  // those that are at it
    };
    using Behinds = std::vector<std::unique_ptr<Behind>>;

    void forward(Io &io) noexcept;
    void came_back(Io &io, const Behind &from) noexcept;
    void give_back(Io &io) noexcept;
    static void release_memory(Io &io) noexcept;
    static void on_complete(Io &io) noexcept;
    // Control path: devices are destroyed by the caller, not on the reactor's thread.
    void retire(Behinds &unused);
    void take_unused(Behinds &unused);

    // References stay valid: an info is never changed or freed. The last one is current.
    std::vector<std::unique_ptr<const BlockDeviceInfo>> infos_;
    std::atomic<const BlockDeviceInfo *> info_;
    State state_ = State::open;
    Status failure_ = status::ok;     // failing
    std::unique_ptr<Behind> behind_;  // open, or holding until somebody notices
    Behinds earlier_;
    IoList held_;
    IoList done_;  // to be completed by poll()
    PollerRegistration registration_;
};

}  // namespace ftl
