// SPDX-License-Identifier: BSD-3-Clause
// Makes I/O of a device go wrong on demand, as SPDK's error bdev does: by kind of operation, the next `times` of them,
// while at least `queue_depth` I/Os are at the base.
//
//   failure       fails with 00/06, SPDK's general error
//   nvme_failure  fails with the given status
//   nomem         waits until another I/O is done, or 10 ms if none is outstanding, and is then tried again
//   pending       is held until resume_pending(), cancel() or abort_pending()
//   corrupt       one byte of the data is XORed with a value: of a write on its way down, of a read on its way up
//
// Errors of the base become 00/06, as with SPDK's error bdev.
#pragma once

#include <sys/uio.h>

#include <array>
#include <memory>
#include <optional>
#include <vector>

#include "virtual/forwarder.hpp"

namespace ftl {

struct Injection {
    enum class Kind : uint8_t { failure, nvme_failure, nomem, pending, corrupt };

    Kind kind = Kind::failure;
    uint32_t times = 0;
    uint64_t queue_depth = 0;
    Status status = status::ok;   // nvme_failure
    uint64_t corrupt_offset = 0;  // bytes from the start of the data
    uint8_t corrupt_value = 0;
};

class ErrorInjector final : public Forwarder {
public:
    ErrorInjector(std::shared_ptr<Reactor> reactor, std::shared_ptr<BlockDevice> base);

    uint32_t poll(uint64_t now_ns) noexcept override;
    [[nodiscard]] bool busy() const noexcept override { return Forwarder::busy() || retry_now_; }
    [[nodiscard]] uint64_t deadline_ns() const noexcept;
    void cancel(Io &io) noexcept override;

    // Control path; any thread but the reactor's. `op`: read, write, deallocate or flush; none: each of them. Throws
    // std::invalid_argument for another operation.
    void inject(std::optional<Op> op, const Injection &injection);
    void clear();
    void resume_pending();
    // Completes what is pending as aborted. From now on nothing is held.
    void abort_pending();

private:
    static constexpr uint64_t kRetryNs = 10'000'000;
    // Corrupted writes at the base at the same time. Their data is the issuer's, which must stay as it is, so they get
    // a list of their own, in which one byte stands elsewhere.
    static constexpr uint32_t kCorruptWrites = 8;
    static constexpr uint32_t kIovMax = 1026;  // 16 MiB in pieces of 16 KiB, as hosts' data comes, and two more
    // Io::device_data of an Io with corrupt data: one more than the number of its list, offset, value.
    static constexpr size_t kList = kOwn;
    static constexpr size_t kOffset = kOwn + 1;
    static constexpr size_t kValue = kOwn + 2;

    struct CorruptWrite {
        bool used = false;
        uint8_t byte = 0;
        std::array<iovec, kIovMax> iov;
    };

    void begin(Io &io) noexcept override;
    void prepare(const Io &io, Io &below) noexcept override;
    void withdrawn(Io &io) noexcept override { left(io); }
    void came_back(Io &io) noexcept override;
    void left(const Io &io) noexcept;
    [[nodiscard]] Injection *injection_of(Op op) noexcept;
    bool attempt(Io &io) noexcept;
    void corrupt_write(Io &io) noexcept;
    void forward(Io &io) noexcept;

    std::array<Injection, 4> injections_;  // of read, write, deallocate, flush
    std::vector<CorruptWrite> corrupt_writes_;
    uint64_t in_flight_ = 0;
    IoList pending_;
    IoList nomem_;     // and what came after the first of them
    IoList unlisted_;  // writes to corrupt that wait for a list
    uint64_t retry_ns_ = 0;
    bool retry_now_ = false;
    bool holds_nothing_ = false;
    PollerRegistration registration_;
};

}  // namespace ftl
