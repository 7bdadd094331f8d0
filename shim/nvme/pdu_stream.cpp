// SPDX-License-Identifier: BSD-3-Clause
// Receives PDUs. pdu_send.cpp sends them.
#include "nvme/pdu_stream.hpp"

#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <system_error>

#include "base/crc32c.hpp"
#include "base/fault_in.hpp"

namespace ftl {

using wire::Fes;
using wire::PduType;

namespace {

constexpr uint32_t kFeiType = offsetof(wire::CommonHeader, type);
constexpr uint32_t kFeiFlags = offsetof(wire::CommonHeader, flags);
constexpr uint32_t kFeiHlen = offsetof(wire::CommonHeader, hlen);
constexpr uint32_t kFeiPdo = offsetof(wire::CommonHeader, pdo);
constexpr uint32_t kFeiPlen = offsetof(wire::CommonHeader, plen);

// Header length of each PDU type that a role may receive after Connect; 0: the role does not receive that type.
uint32_t expected_hlen(PduStream::Role role, PduType type) noexcept {
    if (role == PduStream::Role::target) {
        switch (type) {
            case PduType::capsule_cmd:
                return sizeof(wire::CapsuleCmd);
            case PduType::h2c_data:
                return sizeof(wire::H2cData);
            case PduType::h2c_term_req:
                return sizeof(wire::TermReq);
            default:
                return 0;
        }
    }
    switch (type) {
        case PduType::capsule_resp:
            return sizeof(wire::CapsuleResp);
        case PduType::c2h_data:
            return sizeof(wire::C2hData);
        case PduType::r2t:
            return sizeof(wire::R2t);
        case PduType::c2h_term_req:
            return sizeof(wire::TermReq);
        default:
            return 0;
    }
}

bool may_carry_data(PduType type) noexcept {
    return type == PduType::capsule_cmd || type == PduType::h2c_data || type == PduType::c2h_data || is_term_req(type);
}

// Both ends of the connection have the same address.
bool within_machine(int fd) noexcept {
    sockaddr_storage ours{};
    sockaddr_storage theirs{};
    socklen_t our_length = sizeof ours;
    socklen_t their_length = sizeof theirs;
    if (getsockname(fd, reinterpret_cast<sockaddr *>(&ours), &our_length) != 0 ||
        getpeername(fd, reinterpret_cast<sockaddr *>(&theirs), &their_length) != 0 ||
        ours.ss_family != theirs.ss_family) {
        return false;
    }
    if (ours.ss_family == AF_INET) {
        return reinterpret_cast<const sockaddr_in &>(ours).sin_addr.s_addr ==
               reinterpret_cast<const sockaddr_in &>(theirs).sin_addr.s_addr;
    }
    return ours.ss_family == AF_INET6 &&
           std::memcmp(&reinterpret_cast<const sockaddr_in6 &>(ours).sin6_addr,
                       &reinterpret_cast<const sockaddr_in6 &>(theirs).sin6_addr, sizeof(in6_addr)) == 0;
}

}  // namespace

PduStream::PduStream(PduHandler &handler, Role role, int fd, bool header_digest, bool data_digest,
                     std::shared_ptr<TlsSession> tls)
    : handler_(handler),
      role_(role),
      header_digest_(header_digest),
      data_digest_(data_digest),
      rx_bytes_(role == Role::host ? kRxBufferHost : kRxBufferTarget),
      tls_(std::move(tls)),
      local_(within_machine(fd)),
      buffer_(std::make_unique_for_overwrite<uint8_t[]>(rx_bytes_)),
      window_(rx_bytes_) {
    int type = 0;
    socklen_t length = sizeof type;
    if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &length) != 0) {
        throw std::system_error(errno, std::generic_category(), "fd of a qpair must be a socket");
    }
    if (type != SOCK_STREAM) {
        throw std::system_error(EINVAL, std::generic_category(), "fd of a qpair must be a stream socket");
    }
    if (tls_) {
        tls_->take();
    }
    fd_ = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    if (fd_ < 0) {
        throw std::system_error(errno, std::generic_category(), "can't duplicate the fd of a qpair");
    }
    const int on = 1;
    setsockopt(fd_, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);  // fails on a socketpair, which has no delay
}

PduStream::~PduStream() {
    shut();
    ::close(fd_);
}

// --- receive ---------------------------------------------------------------------------------------------------

uint32_t PduStream::gather_sink(std::array<iovec, kIovMax> &iov) const noexcept {
    IovCursor cursor = sink_;
    uint32_t count = 0;
    size_t left = data_left_;
    // One entry is kept for the read-ahead.
    while (left > 0 && count < kIovMax - 1) {
        const iovec piece = cursor.piece(left);
        if (piece.iov_len == 0) {
            break;
        }
        iov[count++] = piece;
        left -= piece.iov_len;
    }
    return count;
}

ssize_t PduStream::read_socket(iovec *iov, uint32_t iov_count) noexcept {
    if (tls_) {
        return tls_->read(iov, iov_count);
    }
    msghdr message{};
    message.msg_iov = iov;
    message.msg_iovlen = iov_count;
    ssize_t got = recvmsg(fd_, &message, MSG_DONTWAIT);
    if (got < 0 && errno == EFAULT) [[unlikely]] {
        fault_in({iov, iov_count});
        got = recvmsg(fd_, &message, MSG_DONTWAIT);
    }
    return got;
}

ssize_t PduStream::receive_some(size_t &asked) noexcept {
    if (begin_ == end_) {
        begin_ = end_ = 0;
    } else if (begin_ > 0) {
        // At most a header is left: parse() consumes everything else.
        std::memmove(buffer_.get(), buffer_.get() + begin_, end_ - begin_);
        end_ -= begin_;
        begin_ = 0;
    }
    if (state_ == State::data && data_left_ >= kDirectMin && end_ == 0 && !discards_) {
        std::array<iovec, kIovMax> iov;
        uint32_t count = gather_sink(iov);
        size_t direct = 0;
        for (uint32_t i = 0; i < count; ++i) {
            direct += iov[i].iov_len;
        }
        asked = direct;
        window_ = kRxSmallWindow;
        if (direct == data_left_) {
            iov[count++] = {buffer_.get(), window_};
            asked += window_;
        }
        const ssize_t got = read_socket(iov.data(), count);
        if (got > 0) {
            const size_t in_place = std::min(direct, static_cast<size_t>(got));
            advance_data(nullptr, static_cast<uint32_t>(in_place));
            end_ = static_cast<size_t>(got) - in_place;
        }
        return got;
    }
    asked = std::min(window_, rx_bytes_ - end_);
    iovec linear{buffer_.get() + end_, asked};
    const ssize_t got = tls_ ? tls_->read(&linear, 1) : recv(fd_, linear.iov_base, asked, MSG_DONTWAIT);
    if (got > 0) {
        end_ += static_cast<size_t>(got);
    }
    return got;
}

// What was received last was processed on this processor: on loopback, the sender's; from a network, the one that
// serves the interface. One look may be wrong, because the kernel's acknowledgements come from the receiver's
// processor.
void PduStream::locate_peer() noexcept {
    int cpu = -1;
    socklen_t length = sizeof cpu;
    const bool known = getsockopt(fd_, SOL_SOCKET, SO_INCOMING_CPU, &cpu, &length) == 0 && cpu >= 0;
    const Place seen = !known                  ? Place::unknown
                       : cpu != sched_getcpu() ? Place::elsewhere
                       : local_                ? Place::here
                                               : Place::unknown;
    if (seen == peer_seen_) {
        peer_ = seen;
    }
    peer_seen_ = seen;
}

uint32_t PduStream::receive() noexcept {
    uint32_t work = 0;
    const uint64_t enough = bytes_in_ + (role_ == Role::host ? rx_bytes_ : kReceiveRounds * rx_bytes_);
    drained_ = false;
    for (uint32_t round = 0; round < kReceiveRounds && !fault_ && !stopped_; ++round) {
        size_t asked = 0;
        const ssize_t got = receive_some(asked);
        if (got == 0) {
            set_fault(QpairClose::peer_closed);
            return work + 1;
        }
        if (got < 0) {
            if (errno == EINTR) {
                continue;
            }
            if (errno != EAGAIN && errno != EWOULDBLOCK) {
                set_fault(QpairClose::socket_error, static_cast<uint32_t>(errno));
                ++work;
            }
            drained_ = true;
            return work;
        }
        ++work;
        bytes_in_ += static_cast<uint64_t>(got);
        if (++locate_rounds_ == kLocateRounds) {
            locate_rounds_ = 0;
            locate_peer();
        }
        parse();
        if (static_cast<size_t>(got) < asked) {
            drained_ = true;
            if (tls_ && (data_left_ > 0 || static_cast<size_t>(got) >= kDirectMin)) {
                tls_->acknowledge();
            }
            break;
        }
        if (!(state_ == State::data && data_left_ >= kDirectMin)) {
            window_ = rx_bytes_;  // small PDUs filled the small window
        }
        if (bytes_in_ >= enough) {
            break;
        }
    }
    return work;
}

bool PduStream::reject(Fes fes, uint32_t fei) noexcept {
    if (!fault_) {
        fault_ = {QpairClose::protocol_error, static_cast<uint32_t>(fes), fei};
    }
    return false;
}

bool PduStream::check_common_header() noexcept {
    const uint32_t hlen = expected_hlen(role_, ch_.type);
    if (hlen == 0) {
        return reject(Fes::invalid_header_field, kFeiType);
    }
    if (ch_.hlen != hlen) {
        return reject(Fes::invalid_header_field, kFeiHlen);
    }
    const bool term_req = is_term_req(ch_.type);
    const bool header_digest = header_digest_ && !term_req;
    if (((ch_.flags & wire::flag::header_digest) != 0) != header_digest) {
        return reject(Fes::invalid_header_field, kFeiFlags);
    }
    header_need_ = hlen + (header_digest ? wire::kDigestBytes : 0);
    digest_follows_ = false;
    padding_left_ = 0;
    data_length_ = 0;
    if (ch_.plen < header_need_) {
        return reject(Fes::invalid_header_field, kFeiPlen);
    }
    if (ch_.plen == header_need_) {
        return true;
    }
    if (!may_carry_data(ch_.type)) {
        return reject(Fes::invalid_header_field, kFeiPlen);
    }
    if (term_req) {
        data_length_ = ch_.plen - header_need_;
        return data_length_ <= wire::kTermReqDataMax || reject(Fes::invalid_header_field, kFeiPlen);
    }
    // No alignment was agreed on, so PDO should be the end of the header. Padding is tolerated.
    if (ch_.pdo < header_need_) {
        return reject(Fes::invalid_header_field, kFeiPdo);
    }
    digest_follows_ = (ch_.flags & wire::flag::data_digest) != 0;
    if (digest_follows_ != data_digest_) {
        return reject(Fes::invalid_header_field, kFeiFlags);
    }
    const uint32_t around = ch_.pdo + (digest_follows_ ? wire::kDigestBytes : 0);
    if (ch_.plen <= around) {
        return reject(Fes::invalid_header_field, ch_.plen <= ch_.pdo ? kFeiPdo : kFeiPlen);
    }
    padding_left_ = ch_.pdo - header_need_;
    data_length_ = ch_.plen - around;
    return true;
}

bool PduStream::begin_pdu(const uint8_t *pdu) noexcept {
    const uint32_t hlen = ch_.hlen;
    if (header_need_ > hlen) {
        uint32_t digest;
        std::memcpy(&digest, pdu + hlen, sizeof digest);
        if (digest != crc32c(0, pdu, hlen)) {
            return reject(Fes::header_digest_error);
        }
    }
    DataSink sink;
    if (!handler_.on_header(pdu, ch_.type, ch_.flags, data_length_, sink)) {
        return false;
    }
    discards_ = sink.iov == nullptr;
    sink_ = IovCursor({sink.iov, sink.iov_count});
    sink_.skip(sink.skip);
    data_left_ = data_length_;
    data_crc_ = 0;
    return true;
}

// `source` null: recvmsg() has already stored the bytes.
void PduStream::advance_data(const uint8_t *source, uint32_t bytes) noexcept {
    data_left_ -= bytes;
    if (discards_) {
        if (digest_follows_) {
            data_crc_ = crc32c(data_crc_, source, bytes);
        }
        return;
    }
    sink_.each(bytes, [this, &source](uint8_t *target, size_t piece) {
        if (source != nullptr) {
            std::memcpy(target, source, piece);
            source += piece;
        }
        if (digest_follows_) {
            data_crc_ = crc32c(data_crc_, target, piece);
        }
    });
}

bool PduStream::end_data() noexcept {
    bool digest_ok = true;
    if (digest_follows_) {
        uint32_t digest;
        std::memcpy(&digest, buffer_.get() + begin_, sizeof digest);
        begin_ += wire::kDigestBytes;
        digest_ok = digest == data_crc_;
    }
    state_ = State::common_header;
    return handler_.on_data(digest_ok);
}

void PduStream::parse() noexcept {
    const uint8_t *bytes = buffer_.get();
    while (!fault_ && !stopped_) {
        const size_t available = end_ - begin_;
        switch (state_) {
            case State::common_header:
                if (available < sizeof ch_) {
                    return;
                }
                std::memcpy(&ch_, bytes + begin_, sizeof ch_);
                if (!check_common_header()) {
                    break;
                }
                state_ = State::header;
                [[fallthrough]];
            case State::header:
                if (end_ - begin_ < header_need_) {
                    return;
                }
                if (const size_t ahead = begin_ + ch_.plen; ahead < end_) {
                    handler_.on_ahead(bytes + ahead, end_ - ahead);
                }
                if (!begin_pdu(bytes + begin_)) {
                    break;
                }
                begin_ += header_need_;
                state_ = data_length_ == 0 ? State::common_header : padding_left_ > 0 ? State::padding : State::data;
                continue;
            case State::padding: {
                const auto piece = static_cast<uint32_t>(std::min<size_t>(available, padding_left_));
                begin_ += piece;
                padding_left_ -= piece;
                if (padding_left_ > 0) {
                    return;
                }
                state_ = State::data;
                continue;
            }
            case State::data: {
                if (data_left_ > 0) {
                    if (available == 0) {
                        return;
                    }
                    const auto piece = static_cast<uint32_t>(std::min<size_t>(available, data_left_));
                    advance_data(bytes + begin_, piece);
                    begin_ += piece;
                    continue;
                }
                if (digest_follows_) {
                    state_ = State::digest;
                } else {
                    end_data();
                }
                continue;
            }
            case State::digest:
                if (available < wire::kDigestBytes) {
                    return;
                }
                end_data();
                continue;
        }
        break;
    }
    if (fault_ && fault_.reason == QpairClose::protocol_error) {
        // The faulty header is still in the buffer, unless the fault is in its data. In that case the TermReq has no
        // header.
        const bool in_header = state_ == State::common_header || state_ == State::header;
        const size_t length = in_header ? std::min<size_t>(end_ - begin_, ch_.hlen) : 0;
        offender_length_ = static_cast<uint32_t>(std::min<size_t>(length, offender_.size()));
        std::memcpy(offender_.data(), bytes + begin_, offender_length_);
    }
}

}  // namespace ftl
