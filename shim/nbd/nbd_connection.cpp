// SPDX-License-Identifier: BSD-3-Clause
// The connection: its socket, slots and chunks, and its end. nbd_requests.cpp runs the requests.
#include "nbd/nbd_connection.hpp"

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <span>
#include <stdexcept>
#include <string>
#include <system_error>

#include "base/iov_cursor.hpp"
#include "reactor/wait_until.hpp"

namespace ftl {

namespace {

constexpr auto kNbdCloseTimeout = std::chrono::seconds(30);

uint32_t checked_block_bytes(const BlockDevice *device, const NbdConnectionConfig &config) {
    if (device == nullptr) {
        throw std::invalid_argument("an NBD connection needs a device");
    }
    const BlockDeviceInfo &info = device->info();
    const uint32_t bytes = info.block_bytes;
    if (info.metadata_bytes != 0 || bytes < NbdConnection::kBlockBytesMin || bytes > NbdConnection::kChunkBytes ||
        (bytes & (bytes - 1)) != 0) {
        throw std::invalid_argument("blocks of " + std::to_string(bytes) + " bytes, " +
                                    std::to_string(info.metadata_bytes) +
                                    " of them metadata, are not supported: use a power of two within 512..65536");
    }
    if (info.zoned && !config.read_only) {
        throw std::invalid_argument("the device is zoned: NBD can only read it");
    }
    if (config.block_count == 0 || config.block_count > info.block_count || config.block_count > ~uint64_t{0} / bytes) {
        throw std::invalid_argument("block_count is " + std::to_string(config.block_count) + ", must be within 1.." +
                                    std::to_string(info.block_count));
    }
    return bytes;
}

}  // namespace

NbdConnection::NbdConnection(std::shared_ptr<Reactor> reactor, int fd, const NbdConnectionConfig &config,
                             std::shared_ptr<BlockDevice> device)
    : reactor_(std::move(reactor)),
      device_(std::move(device)),
      config_(config),
      block_bytes_(checked_block_bytes(device_.get(), config_)),
      max_piece_blocks_(std::max(1U, std::min(device_->info().max_io_blocks, kRequestBytesMax / block_bytes_))),
      slots_(kRequests),
      chunks_(kPoolBytes),
      zeroes_(kChunkBytes),
      buffer_(std::make_unique<uint8_t[]>(kRxBytes)) {
    for (uint32_t i = 0; i < kRequests; ++i) {
        Slot &slot = slots_[i];
        slot.next = i + 1 < kRequests ? i + 1 : kNone;
        slot.io.owner = this;
        slot.io.ordered_by = this;
        slot.io.owner_data = i;
        slot.io.complete = [](Io &io) noexcept {
            auto &connection = *static_cast<NbdConnection *>(io.owner);
            connection.io_done(connection.slots_[io.owner_data]);
        };
    }
    for (uint32_t i = 0; i < kChunks; ++i) {
        chunk_free_[i] = kChunks - 1 - i;
    }
    fd_ = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    if (fd_ < 0) {
        throw std::system_error(errno, std::generic_category(), "fcntl");
    }
    // The reactor only borrows the connection. close() removes it from the reactor.
    const std::shared_ptr<Poller> borrowed(std::shared_ptr<void>(), this);
    reactor_->call([&] { id_ = reactor_->add(borrowed); });
}

NbdConnection::~NbdConnection() {
    close();
}

// --- control path ----------------------------------------------------------------------------------------------

NbdConnectionStats NbdConnection::stats() {
    NbdConnectionStats copy;
    reactor_->call([&] { copy = stats_; });
    return copy;
}

bool NbdConnection::dead() {
    bool dead = false;
    reactor_->call([&] { dead = life_ == Life::dead; });
    return dead;
}

void NbdConnection::disconnect() {
    reactor_->call([this] {
        if (life_ != Life::dead) {
            fault(NbdClose::closed);
            die(false);
        }
    });
}

void NbdConnection::close() {
    const std::lock_guard lock(control_mutex_);
    if (removed_from_reactor_) {
        return;
    }
    disconnect();
    if (!wait_until(*reactor_, kNbdCloseTimeout, [this] { return drained(); })) {
        throw std::runtime_error("a device did not complete the outstanding I/O of a closed connection in 30 s");
    }
    reactor_->call([this] { reactor_->remove(id_); });
    removed_from_reactor_ = true;
    device_.reset();
}

// --- slots and chunks ------------------------------------------------------------------------------------------

NbdConnection::Slot *NbdConnection::take_slot() noexcept {
    if (free_ == kNone) {
        return nullptr;
    }
    Slot &slot = slots_[free_];
    free_ = slot.next;
    ++active_;
    return &slot;
}

void NbdConnection::free_slot(Slot &slot) noexcept {
    give_chunks(slot);
    slot.state = State::free;
    slot.next = free_;
    free_ = number_of(slot);
    --active_;
    stalled_ = false;
}

bool NbdConnection::take_chunks(Slot &slot, uint32_t bytes) noexcept {
    const uint32_t count = (bytes + kChunkBytes - 1) / kChunkBytes;
    if (count > chunks_left_) {
        return false;
    }
    uint32_t left = bytes;
    for (uint32_t i = 0; i < count; ++i) {
        const uint32_t chunk = chunk_free_[--chunks_left_];
        const uint32_t step = std::min(left, kChunkBytes);
        slot.data[i] = {chunks_.data() + size_t{chunk} * kChunkBytes, step};
        left -= step;
    }
    slot.chunk_count = count;
    return true;
}

void NbdConnection::give_chunks(Slot &slot) noexcept {
    for (uint32_t i = 0; i < slot.chunk_count; ++i) {
        const auto offset = static_cast<uint8_t *>(slot.data[i].iov_base) - chunks_.data();
        chunk_free_[chunks_left_++] = static_cast<uint32_t>(static_cast<size_t>(offset) / kChunkBytes);
    }
    if (slot.chunk_count > 0) {
        slot.chunk_count = 0;
        stalled_ = false;
    }
}

// --- receiving -------------------------------------------------------------------------------------------------

ssize_t NbdConnection::receive_some(size_t &asked) noexcept {
    if (begin_ == end_) {
        begin_ = end_ = 0;
    } else if (begin_ > 0) {
        std::memmove(buffer_.get(), buffer_.get() + begin_, end_ - begin_);
        end_ -= begin_;
        begin_ = 0;
    }
    std::array<iovec, kChunksMax + 1> iov;
    uint32_t count = 0;
    size_t direct = 0;
    if (rx_slot_ != kNone && rx_error_ == nbd::error::none && rx_left_ >= kDirectMin && end_ == 0) {
        const Slot &slot = slots_[rx_slot_];
        for (uint32_t at = rx_done_; at < slot.data_length; ++count) {
            const iovec &chunk = slot.data[at / kChunkBytes];
            const uint32_t in_chunk = at % kChunkBytes;
            iov[count] = {static_cast<uint8_t *>(chunk.iov_base) + in_chunk, chunk.iov_len - in_chunk};
            direct += iov[count].iov_len;
            at += static_cast<uint32_t>(iov[count].iov_len);
        }
    }
    iov[count++] = {buffer_.get() + end_, kRxBytes - end_};
    asked = direct + kRxBytes - end_;
    msghdr message{};
    message.msg_iov = iov.data();
    message.msg_iovlen = count;
    const ssize_t got = recvmsg(fd_, &message, MSG_DONTWAIT);
    if (got > 0) {
        const auto in_place = static_cast<uint32_t>(std::min(direct, static_cast<size_t>(got)));
        end_ += static_cast<uint32_t>(got) - in_place;
        stats_.bytes_in += static_cast<uint64_t>(got);
        if (in_place > 0) {
            rx_done_ += in_place;
            rx_left_ -= in_place;
            if (rx_left_ == 0) {
                on_data_received();
            }
        }
    }
    return got;
}

uint32_t NbdConnection::receive() noexcept {
    uint32_t work = 0;
    if (!stalled_ && begin_ < end_) {
        const uint32_t before = begin_;
        parse();
        work += begin_ != before ? 1 : 0;
    }
    for (uint32_t round = 0; round < kReceiveRounds && !stalled_ && reason_ == NbdClose::none; ++round) {
        size_t asked = 0;
        const ssize_t got = receive_some(asked);
        if (got == 0) {
            fault(NbdClose::peer_closed);
            return work + 1;
        }
        if (got < 0) {
            if (errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR) {
                fault(errno == ECONNRESET ? NbdClose::peer_closed : NbdClose::socket_error,
                      static_cast<uint32_t>(errno));
                ++work;
            }
            return work;
        }
        ++work;
        parse();
        if (static_cast<size_t>(got) < asked) {
            break;
        }
    }
    return work;
}

void NbdConnection::parse() noexcept {
    while (reason_ == NbdClose::none) {
        if (rx_slot_ != kNone) {
            if (begin_ == end_) {
                return;
            }
            take_data();
            continue;
        }
        nbd::Request request;
        if (end_ - begin_ < sizeof request) {
            return;
        }
        std::memcpy(&request, buffer_.get() + begin_, sizeof request);
        if (!on_request(request)) {
            stalled_ = true;
            return;
        }
        begin_ += static_cast<uint32_t>(sizeof request);
    }
}

void NbdConnection::take_data() noexcept {
    const uint32_t bytes = std::min(rx_left_, end_ - begin_);
    if (rx_error_ == nbd::error::none) {
        Slot &slot = slots_[rx_slot_];
        IovCursor cursor(std::span<const iovec>(slot.data.data(), slot.chunk_count));
        cursor.skip(rx_done_);
        cursor.write(buffer_.get() + begin_, bytes);
    }
    begin_ += bytes;
    rx_done_ += bytes;
    rx_left_ -= bytes;
    if (rx_left_ == 0) {
        on_data_received();
    }
}

// --- sending ---------------------------------------------------------------------------------------------------

void NbdConnection::queue_reply(Slot &slot) noexcept {
    slot.next = kNone;
    if (send_head_ == kNone) {
        send_head_ = number_of(slot);
    } else {
        slots_[send_tail_].next = number_of(slot);
    }
    send_tail_ = number_of(slot);
}

uint32_t NbdConnection::send() noexcept {
    uint32_t work = 0;
    blocked_ = false;
    while (send_head_ != kNone && !blocked_) {
        std::array<iovec, kSendIovMax + kChunksMax + 1> iov;
        uint32_t count = 0;
        size_t total = 0;
        size_t skip = send_done_;
        const auto add = [&](void *data, size_t bytes) {
            if (skip >= bytes) {
                skip -= bytes;
                return;
            }
            iov[count++] = {static_cast<uint8_t *>(data) + skip, bytes - skip};
            total += bytes - skip;
            skip = 0;
        };
        for (uint32_t number = send_head_; number != kNone && count < kSendIovMax; number = slots_[number].next) {
            Slot &slot = slots_[number];
            add(slot.header.data(), slot.header_length);
            if (slot.reply_length > slot.header_length) {
                for (uint32_t i = 0; i < slot.chunk_count; ++i) {
                    add(slot.data[i].iov_base, slot.data[i].iov_len);
                }
            }
        }
        msghdr message{};
        message.msg_iov = iov.data();
        message.msg_iovlen = count;
        const ssize_t done = sendmsg(fd_, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (done < 0) {
            if (errno == EAGAIN || errno == EWOULDBLOCK || errno == ENOBUFS || errno == EINTR) {
                blocked_ = true;
            } else {
                const bool gone = errno == EPIPE || errno == ECONNRESET;
                fault(gone ? NbdClose::peer_closed : NbdClose::socket_error, static_cast<uint32_t>(errno));
                return work + 1;
            }
            break;
        }
        ++work;
        stats_.bytes_out += static_cast<uint64_t>(done);
        sent(static_cast<size_t>(done));
        blocked_ = static_cast<size_t>(done) < total;
    }
    return work;
}

void NbdConnection::sent(size_t bytes) noexcept {
    while (bytes > 0) {
        Slot &slot = slots_[send_head_];
        const auto step = static_cast<uint32_t>(std::min<size_t>(bytes, slot.reply_length - send_done_));
        bytes -= step;
        send_done_ += step;
        if (send_done_ == slot.reply_length) {
            send_done_ = 0;
            send_head_ = slot.next;
            free_slot(slot);
        }
    }
}

// --- life ------------------------------------------------------------------------------------------------------

bool NbdConnection::busy() const noexcept {
    if (life_ == Life::dead) {
        return false;
    }
    const bool unparsed = life_ == Life::open && !stalled_ && end_ - begin_ >= sizeof(nbd::Request);
    return unparsed || (send_head_ != kNone && !blocked_);
}

uint64_t NbdConnection::deadline_ns() const noexcept {
    return life_ == Life::closing ? linger_until_ns_ : ~uint64_t{0};
}

bool NbdConnection::skips_round(uint64_t now_ns) noexcept {
    if (now_ns >= window_ns_) {
        idle_ = window_ns_ != 0 && hits_ < kIdleHitsMax;
        hits_ = 0;
        window_ns_ = now_ns + kIdleWindowNs;
    }
    // A client that does not read costs a system call in few rounds only. A caller that drives the reactor with step()
    // relies on every round.
    const bool sending = send_head_ != kNone && !blocked_;
    if (sending || !(idle_ || blocked_ || stalled_) || !reactor_->running() || ++skipped_ >= kIdleRounds) {
        skipped_ = 0;
        return false;
    }
    return true;
}

// While the connection is stalled, it does not read, and would not notice that the client is gone.
void NbdConnection::check_peer(uint64_t now_ns) noexcept {
    if (!stalled_ || now_ns < peer_check_ns_) {
        return;
    }
    peer_check_ns_ = now_ns + kPeerCheckNs;
    pollfd peer{fd_, 0, 0};
    if (::poll(&peer, 1, 0) > 0 && (peer.revents & (POLLHUP | POLLERR)) != 0) {
        fault(NbdClose::peer_closed);
    }
}

uint32_t NbdConnection::poll(uint64_t now_ns) noexcept {
    if (life_ == Life::dead) {
        return 0;
    }
    uint32_t work = 0;
    if (life_ == Life::open) {
        if (skips_round(now_ns)) {
            return 0;
        }
        check_peer(now_ns);
        const uint32_t received = stalled_ || reason_ != NbdClose::none ? 0 : receive();
        hits_ += received > 0 ? 1 : 0;
        work = received;
        if (reason_ == NbdClose::none) {
            work += send();
        }
        if (reason_ == NbdClose::none) {
            return work;
        }
        ++work;
        if (reason_ != NbdClose::disconnected) {
            die(true);
            return work;
        }
        life_ = Life::closing;
        stalled_ = false;
        linger_until_ns_ = now_ns + kLingerNs;
    }
    work += send();
    drop_input();
    if (ended_ || active_ == 0 || now_ns >= linger_until_ns_) {
        die(true);
        ++work;
    }
    return work;
}

void NbdConnection::fault(NbdClose reason, uint32_t detail) noexcept {
    if (reason_ == NbdClose::none) {
        reason_ = reason;
        detail_ = detail;
    } else {
        ended_ = true;
    }
}

// After NBD_CMD_DISC nothing may follow but the end of the stream.
void NbdConnection::drop_input() noexcept {
    const ssize_t got = recv(fd_, buffer_.get(), kRxBytes, MSG_DONTWAIT);
    ended_ = ended_ || got == 0 || (got < 0 && errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR);
}

void NbdConnection::die(bool tell) noexcept {
    life_ = Life::dead;
    ::shutdown(fd_, SHUT_RDWR);
    ::close(fd_);
    fd_ = -1;
    send_head_ = send_tail_ = rx_slot_ = kNone;
    stalled_ = blocked_ = false;
    for (Slot &slot : slots_) {
        if (slot.state == State::receiving || slot.state == State::answering) {
            free_slot(slot);
        } else if (slot.state == State::device) {
            device_->cancel(slot.io);  // its answer would reach nobody
        }
    }
    if (tell) {
        reactor_->emit(EventKind::nbd_closed, id_, static_cast<uint64_t>(reason_), detail_);
    }
    if (outstanding_ == 0) {
        drained_.store(true, std::memory_order_release);
    }
}

}  // namespace ftl
