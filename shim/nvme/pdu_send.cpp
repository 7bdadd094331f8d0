// SPDX-License-Identifier: BSD-3-Clause
// The second half of PduStream: sends PDUs and ends a stream.
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "base/crc32c.hpp"
#include "base/fault_in.hpp"
#include "base/iov_cursor.hpp"
#include "nvme/pdu_stream.hpp"

namespace ftl {

using wire::Fes;
using wire::PduType;

namespace {

// The data that follows the PDU's header, from byte `from` on.
IovCursor data_of(const TxPdu &pdu, size_t from) noexcept {
    IovCursor cursor({pdu.data, pdu.data_count});
    cursor.skip(pdu.data_skip + from);
    return cursor;
}

uint32_t crc_of(IovCursor cursor, size_t bytes) noexcept {
    uint32_t crc = 0;
    cursor.each(bytes, [&crc](const uint8_t *data, size_t length) { crc = crc32c(crc, data, length); });
    return crc;
}

// Appends the part of the PDU after the first `sent` bytes. False: iov is full.
bool gather(TxPdu &pdu, uint32_t sent, iovec *iov, uint32_t &count, uint32_t room, size_t &total) noexcept {
    const auto put = [&](void *base, size_t bytes) noexcept {
        if (count == room) {
            return false;
        }
        iov[count++] = {base, bytes};
        total += bytes;
        return true;
    };
    if (sent < pdu.header_length) {
        if (!put(pdu.header.data() + sent, pdu.header_length - sent)) {
            return false;
        }
        sent = 0;
    } else {
        sent -= pdu.header_length;
    }
    if (sent < pdu.data_length) {
        IovCursor cursor = data_of(pdu, sent);
        for (size_t left = pdu.data_length - sent; left > 0;) {
            const iovec piece = cursor.piece(left);
            if (piece.iov_len == 0) {
                break;
            }
            if (!put(piece.iov_base, piece.iov_len)) {
                return false;
            }
            left -= piece.iov_len;
        }
        sent = 0;
    } else {
        sent -= pdu.data_length;
    }
    return sent >= pdu.digest_length || put(pdu.digest.data() + sent, pdu.digest_length - sent);
}

}  // namespace

void PduStream::queue(TxPdu &pdu) noexcept {
    wire::CommonHeader ch;
    std::memcpy(&ch, pdu.header.data(), sizeof ch);
    const bool term_req = is_term_req(ch.type);
    pdu.header_length = ch.hlen;
    pdu.digest_length = 0;
    if (header_digest_ && !term_req) {
        ch.flags |= wire::flag::header_digest;
        pdu.header_length = static_cast<uint8_t>(pdu.header_length + wire::kDigestBytes);
    }
    if (pdu.data_length > 0 && !term_req) {
        ch.pdo = pdu.header_length;
        if (data_digest_) {
            ch.flags |= wire::flag::data_digest;
            pdu.digest_length = wire::kDigestBytes;
            const uint32_t crc = crc_of(data_of(pdu, 0), pdu.data_length);
            std::memcpy(pdu.digest.data(), &crc, sizeof crc);
        }
    }
    ch.plen = pdu.bytes();
    std::memcpy(pdu.header.data(), &ch, sizeof ch);
    if (pdu.header_length > ch.hlen) {
        const uint32_t crc = crc32c(0, pdu.header.data(), ch.hlen);
        std::memcpy(pdu.header.data() + ch.hlen, &crc, sizeof crc);
    }
    pdu.next = nullptr;
    pdu.queued = true;
    if (tail_ != nullptr) {
        tail_->next = &pdu;
    } else {
        head_ = &pdu;
    }
    tail_ = &pdu;
}

// Sends the data of finished PDUs that the session still holds. False: some of it must wait.
bool PduStream::flush_tls() noexcept {
    if (tls_->flush()) {
        blocked_ = false;
        return true;
    }
    if (errno == EAGAIN) {
        blocked_ = true;
    } else {
        set_fault(QpairClose::socket_error, static_cast<uint32_t>(errno));
    }
    return false;
}

uint32_t PduStream::flush() noexcept {
    uint32_t finished = 0;
    if (tls_ && head_ == nullptr && !flush_tls()) {
        return finished;
    }
    std::array<iovec, kIovMax> iov;
    while (head_ != nullptr) {
        uint32_t count = 0;
        size_t total = 0;
        uint32_t sent = head_sent_;
        for (TxPdu *pdu = head_; pdu != nullptr && gather(*pdu, sent, iov.data(), count, kIovMax, total);
             pdu = pdu->next) {
            sent = 0;
        }
        msghdr message{};
        message.msg_iov = iov.data();
        message.msg_iovlen = count;
        const ssize_t taken =
            tls_ ? tls_->write(iov.data(), count) : sendmsg(fd_, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (taken < 0) {
            if (errno == EINTR) {
                continue;
            }
            if (errno == EFAULT) {
                fault_in({iov.data(), count});
                continue;
            }
            if (errno == EAGAIN || errno == EWOULDBLOCK) {
                blocked_ = true;
            } else {
                set_fault(QpairClose::socket_error, static_cast<uint32_t>(errno));
            }
            return finished;
        }
        bytes_out_ += static_cast<uint64_t>(taken);
        auto left = static_cast<size_t>(taken);
        while (left > 0) {
            TxPdu &pdu = *head_;
            const uint32_t unsent = pdu.bytes() - head_sent_;
            if (left < unsent) {
                head_sent_ += static_cast<uint32_t>(left);
                break;
            }
            left -= unsent;
            head_sent_ = 0;
            head_ = pdu.next;
            if (head_ == nullptr) {
                tail_ = nullptr;
            }
            pdu.queued = false;
            ++finished;
            if (&pdu != &term_) {
                handler_.on_sent(pdu);
            }
        }
        blocked_ = static_cast<size_t>(taken) < total || (tls_ && tls_->holds_output());
        if (blocked_) {
            break;
        }
    }
    return finished;
}

uint32_t PduStream::exchange(bool receives) noexcept {
    uint32_t work = flush();
    if (fault_) {
        // The peer may have said why before it closed the connection.
        const StreamFault unsent = std::exchange(fault_, {});
        work += receive();
        if (fault_.reason != QpairClose::peer_terminated && fault_.reason != QpairClose::protocol_error) {
            fault_ = unsent;
        }
        return work;
    }
    if (!receives) {
        return work;
    }
    work += receive();
    if (!fault_ && head_ != nullptr && !blocked_) {
        work += flush();
    }
    return work;
}

void PduStream::clear() noexcept {
    for (TxPdu *pdu = head_; pdu != nullptr; pdu = pdu->next) {
        pdu->queued = false;
    }
    head_ = tail_ = nullptr;
    head_sent_ = 0;
}

void PduStream::queue_term_req() noexcept {
    wire::TermReq request{};
    request.ch.type = role_ == Role::target ? PduType::c2h_term_req : PduType::h2c_term_req;
    request.ch.hlen = sizeof request;
    request.fes = static_cast<Fes>(fault_.detail);
    request.fei = fault_.fei;
    term_.set_header(request);
    offender_iov_ = {offender_.data(), offender_length_};
    term_.data = &offender_iov_;
    term_.data_count = 1;
    term_.data_length = offender_length_;
    queue(term_);
}

void PduStream::shut_write() noexcept {
    if (tls_) {
        tls_->end_output();
    }
    ::shutdown(fd_, SHUT_WR);
}

bool PduStream::drain_input() noexcept {
    for (uint32_t round = 0; round < kReceiveRounds; ++round) {
        const ssize_t got = recv(fd_, buffer_.get(), rx_bytes_, MSG_DONTWAIT);
        if (got == 0 || (got < 0 && errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR)) {
            return true;
        }
        if (got < 0) {
            return false;
        }
    }
    return false;
}

void PduStream::shut() noexcept {
    if (open_) {
        open_ = false;
        stopped_ = true;
        ::shutdown(fd_, SHUT_RDWR);
    }
}

}  // namespace ftl
