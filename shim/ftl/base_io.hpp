// SPDX-License-Identifier: BSD-3-Clause
// I/Os to the base or the nv cache that are not sent at once: I/Os that the device answered with "busy", I/Os whose
// sender wants a second answer, and flushes while another flush is in flight.
#pragma once

#include <algorithm>
#include <cstdint>

#include "reactor/block_device.hpp"
#include "reactor/error_class.hpp"
#include "reactor/io_list.hpp"

namespace ftl {

[[nodiscard]] inline ErrorClass error_class(const Io &io) noexcept {
    return error_class(io.op, io.status, io.do_not_retry);
}

struct BaseIo : Io {
    uint64_t busy_since_ns = 0;   // 0: the last answer was not "busy"
    uint64_t zones_since_ns = 0;  // first of the answers "too many zones" without another between; 0: the last was none
    uint64_t delay_ns = 0;        // delay before it was last sent
    uint64_t due_ns = 0;          // when to send it again
};

// Allows one flush at a time. A flush that fails may lose what the device's volatile cache held (ErrorClass::doubt),
// and the next flush may still succeed. If both were in flight, the success might arrive first, and the FTL would
// believe it.
class FlushTurn {
public:
    // False: the flush waits until others have ended.
    bool take(BaseIo &io) noexcept {
        if (taken_) {
            waiting_.push(io);
            return false;
        }
        taken_ = true;
        return true;
    }
    // A flush has ended. Returns the next flush, which now has the turn and must be sent; null: no flush waits.
    BaseIo *pass_on() noexcept {
        auto *next = static_cast<BaseIo *>(waiting_.pop());
        taken_ = next != nullptr;
        return next;
    }
    // Takes out one waiting flush, which is not sent any more; null: none is left.
    BaseIo *drop() noexcept { return static_cast<BaseIo *>(waiting_.pop()); }

private:
    IoList waiting_;
    bool taken_ = false;
};

class BusyIos {
public:
    // Keeps an I/O whose answer was "busy", and sends it again after a delay. False: the device has been busy for
    // patience_ns, and its answer is final.
    bool keep(BaseIo &io, uint64_t now_ns, uint64_t patience_ns) noexcept {
        const bool first = io.busy_since_ns == 0;
        if (first) {
            io.busy_since_ns = std::max<uint64_t>(now_ns, 1);
        }
        // A device that was busy for another reason has had no time to make room.
        if (!limits_zones(io.status)) {
            io.zones_since_ns = 0;
        } else if (first || io.zones_since_ns == 0) {
            io.zones_since_ns = std::max<uint64_t>(now_ns, 1);
        }
        const bool zones_over = io.zones_since_ns != 0 && now_ns >= io.zones_since_ns + kZonesPatienceNs;
        if (zones_over || now_ns >= io.busy_since_ns + patience_ns) {
            return false;
        }
        io.delay_ns = first ? kBusyDelayMinNs : std::min(io.delay_ns * kBusyDelayGrowth, kBusyDelayMaxNs);
        send_later(io, now_ns, io.delay_ns);
        return true;
    }
    void send_later(BaseIo &io, uint64_t now_ns, uint64_t delay_ns) noexcept {
        io.due_ns = now_ns + delay_ns;
        due_ns_ = std::min(due_ns_, io.due_ns);
        kept_.push(io);
    }
    // Calls send(io) for each I/O that is due. Returns their number.
    template <typename Send>
    uint32_t run(uint64_t now_ns, Send &&send) noexcept {
        if (now_ns < due_ns_) {
            return 0;
        }
        uint32_t sent = 0;
        IoList waiting = kept_;
        kept_ = {};
        due_ns_ = kNever;
        while (Io *each = waiting.pop()) {
            auto &io = static_cast<BaseIo &>(*each);
            if (io.due_ns <= now_ns) {
                send(io);
                ++sent;
            } else {
                due_ns_ = std::min(due_ns_, io.due_ns);
                kept_.push(io);
            }
        }
        return sent;
    }
    // Takes out one I/O, which is not sent any more; null: none is left.
    BaseIo *drop() noexcept {
        due_ns_ = kNever;
        return static_cast<BaseIo *>(kept_.pop());
    }
    // When the next I/O is due; ~0: never.
    [[nodiscard]] uint64_t due_ns() const noexcept { return due_ns_; }
    [[nodiscard]] uint32_t count() const noexcept { return kept_.count(); }

private:
    static constexpr uint64_t kNever = ~uint64_t{0};

    IoList kept_;
    uint64_t due_ns_ = kNever;
};

}  // namespace ftl
