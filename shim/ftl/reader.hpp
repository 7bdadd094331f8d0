// SPDX-License-Identifier: BSD-3-Clause
// User reads: L2P lookup, slots copied at once, contiguous addresses read from the base straight into the caller's
// memory with children from a pool. Reads that find no child wait in order.
//
// Every block is checked against the CRC its LBA had when it was looked up (unless CoreConfig::verify_reads is off).
// One that does not match, or that media can't give, is looked up and read once more, alone; then the write buffer and
// the nv cache are asked, which may still have it; else the read fails. The band is moved.
//
// What a busy base does not read fails only where it reads something else. A base that reads nothing has failed.
#pragma once

#include <sys/uio.h>

#include <cstdint>
#include <vector>

#include "base/iov_cursor.hpp"
#include "ftl/core_state.hpp"
#include "reactor/io_list.hpp"

namespace ftl {

class Reader {
public:
    explicit Reader(CoreState &state);

    // Within the device's bounds. What is finished at once, or fails, goes to done; the rest completes by itself.
    void start(Io &io, IoList &done) noexcept;
    // Goes on with reads that waited for children.
    uint32_t run(IoList &done) noexcept;
    // The core failed: whatever has nothing in flight ends.
    void fail(IoList &done) noexcept;
    [[nodiscard]] bool waiting() const noexcept { return !waiting_.empty(); }

private:
    static constexpr uint32_t kChildren = 1024;
    static constexpr uint32_t kChildIov = 16;
    static constexpr uint32_t kRunBlocks = 256;

    struct Child {
        Reader *reader = nullptr;
        Io *parent = nullptr;
        uint32_t band = 0;
        uint32_t first = 0;   // block of the parent that the run begins with
        uint32_t count = 0;   // blocks of the run
        uint32_t done = 0;    // of them, from the first on, are as they were written
        uint32_t come = 0;    // of them, from the first on, have been read
        bool again = false;   // block `done` is being read for the second time
        bool cached = false;  // or from the nv cache
        BaseIo io;
        Probe probe;
        iovec iov[kChildIov + 1];   // the last one for what is behind a block in an nv cache
        uint16_t crcs[kRunBlocks];  // what its blocks have to match
    };
    enum class Found : uint8_t { here, in_flight, lost };

    // device_data of a parent: [0] children in flight, [1] next block, [2] all blocks were looked up.
    bool advance(Io &io) noexcept;
    uint32_t issue_run(Io &io, uint32_t block, IovCursor &cursor, uint64_t address, uint32_t limit) noexcept;
    static uint32_t point_iov(Child &child, IovCursor cursor, uint32_t most_blocks) noexcept;
    void submit(Child &child, uint64_t address, uint32_t block_count) noexcept;
    bool copy_slot(uint32_t slot, IovCursor &cursor) noexcept;
    static void on_complete(Io &io) noexcept;
    void came_back(Child &child) noexcept;
    bool go_on(Child &child, Status status, bool alive) noexcept;
    void check(Child &child) noexcept;
    Found look_up(Child &child) noexcept;
    bool rescue(Child &child) noexcept;
    bool ask_cache(Child &child) noexcept;

    CoreState &state_;
    std::vector<Child> children_;
    std::vector<Child *> free_;
    IoList waiting_;
    Patience patience_{kBusyReadPatienceNs};
};

}  // namespace ftl
