// SPDX-License-Identifier: BSD-3-Clause
// Reads of hosts: looks up the L2P, copies slots at once, and reads contiguous addresses from the base directly into
// the caller's memory, with children from a pool. Reads that find no child wait in order.
//
// Every block is verified against the CRC that its LBA had at the lookup (unless CoreConfig::verify_reads is off). A
// block that does not match, or that media can't return, is looked up and read once more, alone, into memory of the
// core: a client of vfio-user can change its own while the block is verified, and no band is moved for that. Then the
// write buffer and the nv cache are asked, which may still have it; otherwise the read fails. The band is moved.
//
// A read of a busy base fails only if the base reads another block. A base that reads nothing has failed.
#pragma once

#include <sys/uio.h>

#include <cstdint>
#include <vector>

#include "base/iov_cursor.hpp"
#include "base/page_memory.hpp"
#include "ftl/core_state.hpp"
#include "reactor/io_list.hpp"

namespace ftl {

class Reader {
public:
    explicit Reader(CoreState &state);

    // The read must be within the device. If it is finished at once, or fails, it goes to done; otherwise it completes
    // later.
    void start(Io &io, IoList &done) noexcept;
    // Continues reads that waited for children or pages.
    uint32_t run(IoList &done) noexcept;
    // The core has failed: ends every read that has nothing in flight.
    void fail(IoList &done) noexcept;
    [[nodiscard]] bool waiting() const noexcept { return !waiting_.empty() || !paging_.empty(); }

private:
    static constexpr uint32_t kChildren = 1024;
    static constexpr uint32_t kChildIov = 16;
    static constexpr uint32_t kRunBlocks = 256;

    struct Child {
        Reader *reader = nullptr;
        Io *parent = nullptr;
        uint32_t band = 0;
        uint32_t first = 0;   // first block of the run in the parent
        uint32_t count = 0;   // blocks of the run
        uint32_t done = 0;    // blocks of the run, from the first on, that are valid
        uint32_t come = 0;    // blocks of the run, from the first on, that were read
        bool again = false;   // block `done` is being read for the second time
        bool cached = false;  // or from the nv cache
        bool apart = false;   // block `done` comes into `page`
        uint8_t *page = nullptr;
        BaseIo io;
        Probe probe;
        iovec iov[kChildIov + 1];   // the last one takes the metadata of a block in an nv cache
        uint16_t crcs[kRunBlocks];  // the CRCs that its blocks must match
    };
    enum class Found : uint8_t { here, in_flight, lost };

    // device_data of a parent: [0] children in flight, [1] next block (in paging_: page_events when it came there), [2]
    // all blocks were looked up.
    void look_up(Io &io, IoList &done) noexcept;
    bool advance(Io &io) noexcept;
    uint32_t issue_run(Io &io, uint32_t block, IovCursor &cursor, uint64_t address, uint32_t limit) noexcept;
    static uint32_t point_iov(Child &child, IovCursor cursor, uint32_t most_blocks) noexcept;
    static void point_apart(Child &child) noexcept;
    [[nodiscard]] bool matches(const Child &child, IovCursor cursor) const noexcept;
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
    PageMemory pages_;  // of the children
    std::vector<Child *> free_;
    IoList waiting_;  // for children
    IoList paging_;   // for pages of the L2P
    Patience patience_{kBusyReadPatienceNs};
};

}  // namespace ftl
