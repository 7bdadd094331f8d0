// SPDX-License-Identifier: BSD-3-Clause
// Closed-loop load on a block device, verified while it runs. load_content.hpp has the format of a block.
#pragma once

#include <array>
#include <memory>
#include <string>
#include <vector>

#include "base/latency_histogram.hpp"
#include "base/page_memory.hpp"
#include "base/prng.hpp"
#include "load/load_content.hpp"
#include "reactor/block_device.hpp"
#include "reactor/reactor.hpp"

namespace ftl {

// What a read must return. `exact`: what was written last, for which a version of every block is kept. `whole`: some
// block that a generator with this seed wrote at that place. `none`: anything.
enum class LoadVerify : uint8_t { exact, whole, none };

struct LoadConfig {
    uint64_t first_lba = 0;
    uint64_t lba_count = 0;
    uint64_t seed = 0;
    uint32_t max_queue_depth = 256;
    uint32_t max_io_blocks = 256;
    LoadVerify verify = LoadVerify::exact;
};

struct LoadRun {
    enum class Kind : uint8_t { write, read, trim, mixed };

    Kind kind = Kind::write;
    bool random = true;  // at multiples of io_blocks; false: from the first LBA on, wrapping
    uint32_t io_blocks = 1;
    uint64_t total_blocks = 0;  // 0: run until the time limit
    uint32_t queue_depth = 32;
    uint64_t time_limit_ns = 0;    // 0: run until total_blocks
    uint32_t write_percent = 100;  // for mixed; the rest are reads
    bool sync = false;             // a flush follows each write, which is done when the flush is
};

// Progress of the current run, or of the last one.
struct LoadProgress {
    struct Example {
        Mismatch kind;
        uint64_t lba;
        Version expected;
        uint64_t found_lba;
        Version found;
    };
    static constexpr size_t kExamplesMax = 16;

    bool running = false;
    uint64_t done_ios = 0;
    uint64_t done_blocks = 0;  // read_blocks + written_blocks + trimmed_blocks
    uint64_t read_blocks = 0;
    uint64_t written_blocks = 0;
    uint64_t trimmed_blocks = 0;
    uint64_t verify_errors = 0;  // blocks
    uint64_t io_errors = 0;      // I/Os
    Status last_error_status = status::ok;
    uint64_t last_error_lba = 0;
    uint64_t elapsed_ns = 0;
    std::array<uint64_t, kMismatchKinds> mismatches{};
    std::array<Example, kExamplesMax> examples{};
    size_t example_count = 0;
    LatencyHistogram latency_ns;
};

class LoadGenerator final : public Poller {
public:
    // Throws std::invalid_argument, or std::system_error if memory is short.
    LoadGenerator(Reactor &reactor, std::shared_ptr<BlockDevice> device, const LoadConfig &config);

    // Call these on the reactor's thread, or inside Reactor::call.
    void start(const LoadRun &run);  // throws std::invalid_argument, or std::logic_error while running
    void stop() noexcept;            // no new I/O; load_done follows when outstanding I/O is back
    // Like stop(), but also leaves the reactor when outstanding I/O is back. That may destroy this object.
    void leave();
    [[nodiscard]] const LoadProgress &progress() noexcept;
    [[nodiscard]] const std::vector<Version> &versions() const noexcept { return versions_; }
    [[nodiscard]] bool idle() const noexcept { return outstanding_ == 0 && !progress_.running; }

    void set_id(uint32_t id) noexcept { id_ = id; }
    [[nodiscard]] uint32_t id() const noexcept { return id_; }

    uint32_t poll(uint64_t now_ns) noexcept override;
    [[nodiscard]] uint64_t deadline_ns() const noexcept override { return progress_.running ? until_ns_ : kNever; }

private:
    static constexpr uint64_t kNever = ~uint64_t{0};

    struct Slot {
        Io io;
        iovec iov{};
        uint64_t *words = nullptr;
        uint64_t first = 0;  // from config_.first_lba on
        uint32_t block_count = 0;
        uint64_t submitted_ns = 0;
        LoadGenerator *generator = nullptr;
        Slot *next_free = nullptr;
    };

    [[nodiscard]] bool pick(uint64_t &first, uint32_t &block_count) noexcept;
    void issue(uint64_t first, uint32_t block_count) noexcept;
    void flush(Slot &slot) noexcept;
    [[nodiscard]] Version next_version(uint64_t index) noexcept;
    static void on_complete(Io &io) noexcept;
    void completed(Slot &slot) noexcept;
    void verify(const Slot &slot) noexcept;
    [[nodiscard]] bool is_busy(uint64_t first, uint32_t block_count) const noexcept;
    void set_busy(uint64_t first, uint32_t block_count, bool busy) noexcept;

    Reactor &reactor_;
    std::shared_ptr<BlockDevice> device_;
    LoadConfig config_;
    LoadContent content_;
    uint32_t id_ = 0;
    bool leaving_ = false;

    // Of `exact` only.
    std::vector<Version> versions_;  // expected on the device
    std::vector<Version> last_;      // highest version that a block has had; versions must not repeat after a trim
    Version common_version_ = 0;     // highest version of any block; of the others
    std::vector<uint64_t> busy_;     // one bit per LBA with outstanding I/O
    PageMemory memory_;
    std::vector<Slot> slots_;
    Slot *free_slots_ = nullptr;
    Slot *written_ = nullptr;  // to be flushed in the next round
    uint32_t outstanding_ = 0;

    LoadRun run_;
    Prng prng_;
    LoadProgress progress_;
    bool issuing_ = false;
    uint64_t issued_blocks_ = 0;
    uint64_t cursor_ = 0;
    uint64_t started_ns_ = 0;
    uint64_t until_ns_ = kNever;
};

}  // namespace ftl
