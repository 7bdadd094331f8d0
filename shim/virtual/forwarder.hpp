// SPDX-License-Identifier: BSD-3-Clause
// Base class of devices that send each Io to one device beneath, in an Io of their own. So they may be stacked, and
// what an Io's issuer has lent is never handed on.
//
// The device has the size that its base had at the start, or that resize() has set since.
#pragma once

#include <memory>
#include <vector>

#include "reactor/block_device.hpp"
#include "reactor/device_poller.hpp"
#include "reactor/io_list.hpp"

namespace ftl {

class Forwarder : public BlockDevice {
public:
    [[nodiscard]] const BlockDeviceInfo &info() const noexcept override { return info_; }
    void submit(Io &io) noexcept override;
    uint32_t poll(uint64_t now_ns) noexcept override;
    [[nodiscard]] bool busy() const noexcept override { return !done_.empty(); }
    [[nodiscard]] uint64_t deadline_ns() const noexcept { return ~uint64_t{0}; }
    void cancel(Io &io) noexcept override;
    [[nodiscard]] bool lost() const noexcept override { return base_->lost(); }

protected:
    // Ios at the base at the same time; more wait here in order.
    static constexpr uint32_t kChildren = 512;
    // Io::device_data[0] is the forwarder's; derived classes have the rest.
    static constexpr size_t kChild = 0;
    static constexpr size_t kOwn = 1;

    explicit Forwarder(std::shared_ptr<BlockDevice> base);

    // What happens to an Io that has passed the checks. The default is send().
    virtual void begin(Io &io) noexcept { send(io); }
    // Last changes to the Io that goes to the base.
    virtual void prepare(const Io &io, Io &below) noexcept {
        (void)io;
        (void)below;
    }
    // An Io that was given to send() is cancelled before the base has it. poll() completes it.
    virtual void withdrawn(Io &io) noexcept { (void)io; }
    // The base has completed the Io: io.status, io.do_not_retry and io.result say how.
    virtual void came_back(Io &io) noexcept { io.complete(io); }

    void send(Io &io) noexcept;
    // poll() completes it.
    void finish(Io &io, Status status, bool do_not_retry) noexcept;
    // An Io that this class or a derived one holds in `list` is completed as aborted. False: it is not in that list.
    bool abort_held(IoList &list, Io &io) noexcept;

    BlockDeviceInfo info_;
    uint64_t offset_ = 0;  // added to each LBA

private:
    struct Child {
        Io io;
        Io *parent = nullptr;
        Forwarder *device = nullptr;
        Child *next_free = nullptr;
    };

    [[nodiscard]] Status check(const Io &io) const noexcept;
    void dispatch(Io &io, Child &child) noexcept;
    static void on_complete(Io &io) noexcept;
    void returned(Child &child) noexcept;

    std::shared_ptr<BlockDevice> base_;
    std::vector<Child> children_;
    Child *free_children_ = nullptr;
    IoList waiting_;  // for a child
    IoList done_;     // poll() completes these
};

}  // namespace ftl
