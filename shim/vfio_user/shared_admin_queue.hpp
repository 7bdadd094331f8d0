// SPDX-License-Identifier: BSD-3-Clause
// The admin queue over vfio-user: the shim fetches commands, and Python executes them.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "reactor/reactor.hpp"
#include "vfio_user/idle_naps.hpp"
#include "vfio_user/shared_queue.hpp"

namespace ftl {

struct AdminCommand {
    uint64_t token = 0;
    std::array<uint8_t, sizeof(wire::Sqe)> sqe{};
};

class SharedAdminQueue final : public Poller {
public:
    static constexpr uint32_t kDataBytesMax = 128 * 1024;  // of a command

    // Registers with the reactor. Throws std::invalid_argument or std::system_error. See SharedQueue for the fds.
    // admin_command says that there may be commands.
    SharedAdminQueue(std::shared_ptr<Reactor> reactor, std::shared_ptr<DmaMap> memory, int bar0_fd, int record_fd,
                     const SharedQueueConfig &config);
    ~SharedAdminQueue() override;

    uint32_t poll(uint64_t now_ns) noexcept override;
    [[nodiscard]] uint64_t deadline_ns() const noexcept override { return naps_.next_ns(); }

    [[nodiscard]] uint32_t id() const noexcept { return id_; }

    // Control path; any thread but the reactor's may call it.
    // The next command in the order of the queue. After nullopt, the next command sends admin_command again.
    [[nodiscard]] std::optional<AdminCommand> take();
    // The first `length` bytes of the memory that the command names. Nullopt: it does not name that much. Throws
    // std::invalid_argument for a command that was not taken, and for more than kDataBytesMax.
    [[nodiscard]] std::optional<std::string> read_data(uint64_t token, size_t length);
    // data: to the beginning of the command's memory. False: the command does not name that much; nothing is answered,
    // and it waits for another complete(). True also if the queue has ended.
    bool complete(uint64_t token, Status status, uint64_t result, std::span<const uint8_t> data);
    // What was taken and not completed stays in the record. Idempotent.
    void close();

private:
    struct Slot {
        bool taken = false;
        uint32_t ticket = 0;  // changes with each command
    };

    [[nodiscard]] Slot &slot_of(uint64_t token);
    [[nodiscard]] Status point(uint64_t token, size_t length, bool to_client, uint32_t &count) noexcept;
    void give(uint32_t number) noexcept;

    std::shared_ptr<Reactor> reactor_;
    std::shared_ptr<DmaMap> memory_;
    SharedQueue queue_;
    CommandMemory command_memory_;
    IdleNaps naps_;
    std::vector<Slot> slots_;
    std::vector<uint32_t> waiting_;  // a ring of commands that Python has not taken yet
    uint32_t waiting_head_ = 0;
    uint32_t waiting_count_ = 0;
    bool told_ = false;
    std::array<iovec, kDataBytesMax / DmaMap::kPageBytes + 1> iov_{};
    uint32_t id_ = 0;
    bool dead_ = false;
    size_t replayed_ = 0;
    std::mutex control_mutex_;
    bool removed_from_reactor_ = false;
};

}  // namespace ftl
