// SPDX-License-Identifier: BSD-3-Clause
// Several devices as one, without redundancy: raid0, where strips of the same size lie on the members in turn, and
// concat, where the members lie one after the other. As with SPDK's raid bdevs, an Io that fails on any member fails
// with 00/06.
//
// An Io with data is sent in pieces, each of which is contiguous on one member; another one is sent once to each member
// that it concerns.
#pragma once

#include <sys/uio.h>

#include <array>
#include <vector>

#include "reactor/device_poller.hpp"
#include "reactor/io_list.hpp"
#include "virtual/members.hpp"

namespace ftl {

class Striped final : public BlockDevice {
public:
    // lengths: the blocks that are used of each member. strip_blocks: of raid0, whose members all use the same multiple
    // of it; 0: concat. Throws std::invalid_argument.
    Striped(std::shared_ptr<Reactor> reactor, Members members, std::vector<uint64_t> lengths, uint64_t strip_blocks);

    [[nodiscard]] const BlockDeviceInfo &info() const noexcept override { return info_; }
    void submit(Io &io) noexcept override;
    uint32_t poll(uint64_t now_ns) noexcept override;
    [[nodiscard]] bool busy() const noexcept override { return !done_.empty(); }
    [[nodiscard]] uint64_t deadline_ns() const noexcept { return ~uint64_t{0}; }
    void cancel(Io &io) noexcept override;

    // Control path; raid0 only: each member uses that many blocks from now on.
    void resize(uint64_t length);

private:
    static constexpr uint32_t kChildren = 512;
    static constexpr uint32_t kPieceIovs = 32;
    // Io::device_data: how much has been sent (blocks, or members), children outstanding, the place in io.iov.
    static constexpr size_t kSent = 0;
    static constexpr size_t kOutstanding = 1;
    static constexpr size_t kIov = 2;
    static constexpr size_t kIovOffset = 3;

    struct Child {
        Io io;
        Io *parent = nullptr;
        Striped *device = nullptr;
        Child *next_free = nullptr;
        std::array<iovec, kPieceIovs> iov;
    };
    struct Place {
        size_t member;
        uint64_t lba;
        uint64_t blocks;  // contiguous there
    };

    [[nodiscard]] static bool carries_data(const Io &io) noexcept { return io.op == Op::read || io.op == Op::write; }
    [[nodiscard]] bool all_sent(const Io &io) const noexcept;
    [[nodiscard]] Place place_of(uint64_t lba) const noexcept;
    [[nodiscard]] uint64_t blocks_before(size_t member, uint64_t lba) const noexcept;
    bool send(Io &io) noexcept;
    void finish_if_idle(Io &io) noexcept;
    bool send_piece(Io &io, Child &child) noexcept;
    bool send_range(Io &io, Child &child) noexcept;
    void submit_to(size_t member, Io &parent, Child &child) noexcept;
    static void on_complete(Io &io) noexcept;
    void returned(Child &child) noexcept;
    void finish(Io &io, Status status) noexcept;

    Members members_;
    BlockDeviceInfo info_;
    uint64_t strip_blocks_;
    std::vector<uint64_t> starts_;  // concat: the first block of each member, and the end
    std::vector<Child> children_;
    Child *free_children_ = nullptr;
    IoList waiting_;  // for children; the first may have been sent in part
    IoList done_;     // poll() completes these
    PollerRegistration registration_;
};

}  // namespace ftl
