// SPDX-License-Identifier: BSD-3-Clause
// Keeps a device polled by its reactor exactly as long as the device exists. The reactor owns this small poller, not
// the device, so dropping the last user of a device frees it and its memory.
#pragma once

#include <memory>

#include "reactor/reactor.hpp"

namespace ftl {

template <typename Device>
class DevicePoller final : public Poller {
public:
    explicit DevicePoller(Device &device) noexcept : device_(device) {}
    uint32_t poll(uint64_t now_ns) noexcept override { return device_.poll(now_ns); }
    [[nodiscard]] bool busy() const noexcept override { return device_.busy(); }
    [[nodiscard]] uint64_t deadline_ns() const noexcept override { return device_.deadline_ns(); }

private:
    Device &device_;
};

// A member of the device, and its last one: the device is polled until this is destroyed. A device must not be
// destroyed by the completion of one of its own Ios.
class PollerRegistration {
public:
    template <typename Device>
    PollerRegistration(std::shared_ptr<Reactor> reactor, Device &device) : reactor_(std::move(reactor)) {
        auto poller = std::make_shared<DevicePoller<Device>>(device);
        reactor_->call([&] { id_ = reactor_->add(std::move(poller)); });
    }
    ~PollerRegistration() {
        reactor_->call([this] { reactor_->remove(id_); });
    }
    PollerRegistration(const PollerRegistration &) = delete;
    PollerRegistration &operator=(const PollerRegistration &) = delete;

    [[nodiscard]] Reactor &reactor() const noexcept { return *reactor_; }
    [[nodiscard]] uint32_t id() const noexcept { return id_; }

private:
    std::shared_ptr<Reactor> reactor_;
    uint32_t id_ = 0;
};

}  // namespace ftl
