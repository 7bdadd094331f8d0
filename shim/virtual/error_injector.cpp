// SPDX-License-Identifier: BSD-3-Clause
#include "virtual/error_injector.hpp"

#include <stdexcept>
#include <utility>

#include "base/iov_cursor.hpp"
#include "virtual/plain.hpp"

namespace ftl {

ErrorInjector::ErrorInjector(std::shared_ptr<Reactor> reactor, std::shared_ptr<BlockDevice> base)
    : Forwarder(std::move(base)), corrupt_writes_(kCorruptWrites), registration_(std::move(reactor), *this) {
    make_plain(info_);
}

Injection *ErrorInjector::injection_of(Op op) noexcept {
    switch (op) {
        case Op::read:
            return &injections_[0];
        case Op::write:
            return &injections_[1];
        case Op::deallocate:
            return &injections_[2];
        case Op::flush:
            return &injections_[3];
        case Op::append:
        case Op::write_zeroes:
        case Op::zone_send:
        case Op::zone_report:
        case Op::compare_write:
        case Op::write_uncorrectable:
            break;  // SPDK never fails these
    }
    return nullptr;
}

void ErrorInjector::begin(Io &io) noexcept {
    if (!nomem_.empty()) {
        nomem_.push(io);
    } else if (!attempt(io)) {
        nomem_.push_front(io);
        retry_ns_ = registration_.reactor().now_ns() + kRetryNs;
    }
}

// False: there was "no memory" for the Io.
bool ErrorInjector::attempt(Io &io) noexcept {
    io.device_data[kList] = 0;
    io.device_data[kValue] = 0;
    Injection *injection = injection_of(io.op);
    if (injection == nullptr || injection->times == 0 || in_flight_ < injection->queue_depth) {
        forward(io);
        return true;
    }
    --injection->times;
    switch (injection->kind) {
        case Injection::Kind::failure:
            finish(io, status::internal_error, false);
            break;
        case Injection::Kind::nvme_failure:
            finish(io, injection->status, false);
            break;
        case Injection::Kind::nomem:
            return false;
        case Injection::Kind::pending:
            if (holds_nothing_) {
                finish(io, status::aborted, false);
            } else {
                pending_.push(io);
            }
            break;
        case Injection::Kind::corrupt:
            io.device_data[kOffset] = injection->corrupt_offset;
            io.device_data[kValue] = injection->corrupt_value;
            if (io.op == Op::write && injection->corrupt_offset < iov_bytes(io.memory())) {
                corrupt_write(io);
            } else {
                forward(io);
            }
            break;
    }
    return true;
}

void ErrorInjector::corrupt_write(Io &io) noexcept {
    if (io.iov_count + 2 > kIovMax) {
        finish(io, status::internal_error, false);
        return;
    }
    for (uint32_t i = 0; i < kCorruptWrites; ++i) {
        if (!corrupt_writes_[i].used) {
            corrupt_writes_[i].used = true;
            io.device_data[kList] = i + 1;
            forward(io);
            return;
        }
    }
    unlisted_.push(io);
}

void ErrorInjector::forward(Io &io) noexcept {
    ++in_flight_;
    send(io);
}

void ErrorInjector::prepare(const Io &io, Io &below) noexcept {
    if (io.device_data[kList] == 0) {
        return;
    }
    CorruptWrite &write = corrupt_writes_[io.device_data[kList] - 1];
    uint64_t offset = io.device_data[kOffset];
    uint32_t count = 0;
    bool replaced = false;
    for (const iovec &entry : io.memory()) {
        if (replaced || offset >= entry.iov_len) {
            offset -= replaced ? 0 : entry.iov_len;
            write.iov[count++] = entry;
            continue;
        }
        auto *data = static_cast<uint8_t *>(entry.iov_base);
        write.byte = static_cast<uint8_t>(data[offset] ^ io.device_data[kValue]);
        if (offset > 0) {
            write.iov[count++] = {data, offset};
        }
        write.iov[count++] = {&write.byte, 1};
        if (offset + 1 < entry.iov_len) {
            write.iov[count++] = {data + offset + 1, entry.iov_len - offset - 1};
        }
        replaced = true;
    }
    below.iov = write.iov.data();
    below.iov_count = count;
}

// What forward() has counted is over.
void ErrorInjector::left(const Io &io) noexcept {
    --in_flight_;
    retry_now_ = !nomem_.empty();
    if (io.device_data[kList] != 0) {
        corrupt_writes_[io.device_data[kList] - 1].used = false;
        if (Io *next = unlisted_.pop()) {
            corrupt_write(*next);
        }
    }
}

void ErrorInjector::came_back(Io &io) noexcept {
    left(io);
    if (io.status != status::ok) {
        io.status = status::internal_error;
        io.do_not_retry = false;
    } else if (io.op == Op::read && io.device_data[kValue] != 0) {
        uint64_t offset = io.device_data[kOffset];
        for (const iovec &entry : io.memory()) {
            if (offset < entry.iov_len) {
                auto &byte = static_cast<uint8_t *>(entry.iov_base)[offset];
                byte = static_cast<uint8_t>(byte ^ io.device_data[kValue]);
                break;
            }
            offset -= entry.iov_len;
        }
    }
    io.complete(io);
}

uint32_t ErrorInjector::poll(uint64_t now_ns) noexcept {
    uint32_t count = Forwarder::poll(now_ns);
    if (!nomem_.empty() && (retry_now_ || (in_flight_ == 0 && now_ns >= retry_ns_))) {
        retry_now_ = false;
        while (Io *io = nomem_.pop()) {
            if (!attempt(*io)) {
                nomem_.push_front(*io);
                retry_ns_ = now_ns + kRetryNs;
                break;
            }
            ++count;
        }
    }
    return count;
}

uint64_t ErrorInjector::deadline_ns() const noexcept {
    return nomem_.empty() || in_flight_ > 0 ? ~uint64_t{0} : retry_ns_;
}

void ErrorInjector::cancel(Io &io) noexcept {
    if (io.device_data[kChild] != 0 ||
        (!abort_held(pending_, io) && !abort_held(nomem_, io) && !abort_held(unlisted_, io))) {
        Forwarder::cancel(io);
    }
}

void ErrorInjector::inject(std::optional<Op> op, const Injection &injection) {
    registration_.reactor().call([&] {
        if (!op) {
            injections_.fill(injection);
            return;
        }
        Injection *one = injection_of(*op);
        if (one == nullptr) {
            throw std::invalid_argument("only reads, writes, deallocates and flushes can be made to fail");
        }
        *one = injection;
    });
}

void ErrorInjector::clear() {
    registration_.reactor().call([&] {
        for (Injection &injection : injections_) {
            injection.times = 0;
        }
    });
}

void ErrorInjector::resume_pending() {
    registration_.reactor().call([&] {
        for (Injection &injection : injections_) {
            if (injection.kind == Injection::Kind::pending) {
                injection.times = 0;
            }
        }
        IoList pending = std::exchange(pending_, IoList());
        while (Io *io = pending.pop()) {
            begin(*io);
        }
    });
}

void ErrorInjector::abort_pending() {
    registration_.reactor().call([&] {
        holds_nothing_ = true;
        while (Io *io = pending_.pop()) {
            finish(*io, status::aborted, false);
        }
    });
}

}  // namespace ftl
