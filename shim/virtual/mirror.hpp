// SPDX-License-Identifier: BSD-3-Clause
// raid1: every member has all data. As with SPDK's raid1:
//
//   - A write goes to all members, and succeeds if one of them succeeds. A member that fails it has failed: nothing
//     more is sent to it, and the event member_failed says so. Flushes, deallocates and write zeroes count as writes.
//   - A read goes to the member with the fewest blocks to read. If it fails, the other members are read, and what they
//     return is written to the first one, which so becomes readable again. If that write fails, or if no member can be
//     read, the first member has failed.
//   - An error is 00/06.
//
// Data is written back only if nothing was written meanwhile: it might be older than what is on the member.
#pragma once

#include <vector>

#include "reactor/device_poller.hpp"
#include "reactor/io_list.hpp"
#include "virtual/members.hpp"

namespace ftl {

class Mirror final : public BlockDevice {
public:
    // block_count: at most what the smallest member has. Throws std::invalid_argument.
    Mirror(std::shared_ptr<Reactor> reactor, Members members, uint64_t block_count);

    [[nodiscard]] const BlockDeviceInfo &info() const noexcept override { return info_; }
    void submit(Io &io) noexcept override;
    uint32_t poll(uint64_t now_ns) noexcept override;
    [[nodiscard]] bool busy() const noexcept override { return !done_.empty(); }
    [[nodiscard]] uint64_t deadline_ns() const noexcept { return ~uint64_t{0}; }
    void cancel(Io &io) noexcept override;

    [[nodiscard]] uint32_t id() const noexcept { return registration_.id(); }

    // Control path; any thread but the reactor's.
    void resize(uint64_t block_count);
    // Nothing more is sent to the member. Throws std::invalid_argument if there is none with that number.
    void remove(uint32_t member);
    // Those that have failed or were removed.
    [[nodiscard]] std::vector<uint32_t> gone();
    // Lets go of the devices of those. False: some still have I/O.
    bool release();

private:
    static constexpr uint32_t kChildren = 1024;
    // Io::device_data of a write: children outstanding, and how many succeeded. Of a read: the member that was asked
    // first, the number of the next one to ask, and the number of modifications when it was sent.
    static constexpr size_t kOutstanding = 0;
    static constexpr size_t kSucceeded = 1;
    static constexpr size_t kFirst = 0;
    static constexpr size_t kNext = 1;
    static constexpr size_t kSince = 2;
    static constexpr uint64_t kUnsafe = ~uint64_t{0};

    struct Member {
        std::shared_ptr<BlockDevice> device;
        bool alive = true;
        uint32_t users = 0;  // children outstanding
        uint64_t blocks_to_read = 0;
    };
    struct Child {
        Io io;
        Io *parent = nullptr;
        Mirror *device = nullptr;
        Child *next_free = nullptr;
        uint32_t member = 0;
        bool corrects = false;  // writes back what another member has
    };

    [[nodiscard]] bool can_send(const Io &io) const noexcept;
    void send(Io &io) noexcept;
    void send_read(Io &io) noexcept;
    void read_from(uint32_t member, Io &io) noexcept;
    void send_modification(Io &io) noexcept;
    Child &child_for(uint32_t member, Io &parent) noexcept;
    static void on_complete(Io &io) noexcept;
    void returned(Child &child) noexcept;
    void read_done(Io &io, uint32_t member, Status status) noexcept;
    void read_elsewhere(Io &io) noexcept;
    void correct(Io &io) noexcept;
    void fail(uint32_t member, Status status) noexcept;
    void finish(Io &io, Status status) noexcept;

    std::vector<Member> members_;
    BlockDeviceInfo info_;
    std::vector<Child> children_;
    Child *free_children_ = nullptr;
    uint32_t free_count_ = kChildren;
    uint32_t alive_ = 0;
    uint64_t modifications_ = 0;  // started so far
    uint64_t modifying_ = 0;      // outstanding
    uint32_t correcting_ = 0;     // outstanding; modifications wait for them
    IoList waiting_;
    IoList done_;  // poll() completes these
    PollerRegistration registration_;
};

}  // namespace ftl
