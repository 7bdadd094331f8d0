// SPDX-License-Identifier: BSD-3-Clause
// The other end of a qpair, controlled by the fuzzer: a socket pair, and PDUs that are as well-formed as the input
// demands.
#pragma once

#include <fcntl.h>
#include <fuzzer/FuzzedDataProvider.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <span>
#include <vector>

#include "base/crc32c.hpp"
#include "nvme/wire.hpp"

namespace ftl::fuzz {

// Aborts if a condition that must hold for every input does not hold. Unlike assert(), it works in every build type.
inline void require(bool holds) {
    if (!holds) {
        std::abort();
    }
}

class SocketPair {
public:
    SocketPair() { require(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fds_.data()) == 0); }
    ~SocketPair() {
        close(fds_[0]);
        shut();
    }
    SocketPair(const SocketPair &) = delete;
    SocketPair &operator=(const SocketPair &) = delete;

    [[nodiscard]] int qpair_fd() const { return fds_[0]; }

    // Data that does not fit into the socket's buffer is lost. Such a loss is a valid input, too.
    void send(std::span<const uint8_t> bytes) {
        if (fds_[1] >= 0 && !bytes.empty()) {
            (void)!::send(fds_[1], bytes.data(), bytes.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
        }
    }
    // Reads what the qpair has sent, so that it can send more.
    void drain() {
        std::array<uint8_t, 65536> sink;
        while (fds_[1] >= 0 && recv(fds_[1], sink.data(), sink.size(), MSG_DONTWAIT) > 0) {
        }
    }
    void shut_write() {
        if (fds_[1] >= 0) {
            shutdown(fds_[1], SHUT_WR);
        }
    }
    void shut() {
        if (fds_[1] >= 0) {
            close(fds_[1]);
            fds_[1] = -1;
        }
    }

private:
    std::array<int, 2> fds_{-1, -1};
};

// Makes a PDU with correct lengths and digests from a header (its common header first) and data. If the input demands
// it, one byte is changed then: random bytes alone would hardly ever pass a digest check.
inline std::vector<uint8_t> frame(FuzzedDataProvider &input, std::vector<uint8_t> header, std::vector<uint8_t> data,
                                  bool header_digest, bool data_digest) {
    data_digest = data_digest && !data.empty();
    const size_t hlen = header.size();
    const size_t pdo = hlen + (header_digest ? wire::kDigestBytes : 0);
    wire::CommonHeader common;
    std::memcpy(&common, header.data(), sizeof(common));
    common.flags = static_cast<uint8_t>(common.flags & ~(wire::flag::header_digest | wire::flag::data_digest));
    common.flags = static_cast<uint8_t>(common.flags | (header_digest ? wire::flag::header_digest : 0) |
                                        (data_digest ? wire::flag::data_digest : 0));
    common.hlen = static_cast<uint8_t>(hlen);
    common.pdo = static_cast<uint8_t>(data.empty() ? 0 : pdo);
    common.plen = static_cast<uint32_t>(pdo + data.size() + (data_digest ? wire::kDigestBytes : 0));
    std::memcpy(header.data(), &common, sizeof(common));

    const auto append_digest = [](std::vector<uint8_t> &to, std::span<const uint8_t> of) {
        const uint32_t digest = crc32c(0, of.data(), of.size());
        const auto *bytes = reinterpret_cast<const uint8_t *>(&digest);
        to.insert(to.end(), bytes, bytes + sizeof(digest));
    };
    std::vector<uint8_t> pdu = std::move(header);
    if (header_digest) {
        append_digest(pdu, std::span(pdu).first(hlen));
    }
    pdu.insert(pdu.end(), data.begin(), data.end());
    if (data_digest) {
        append_digest(pdu, data);
    }
    if (input.ConsumeIntegral<uint8_t>() >= 0xE0) {
        pdu[input.ConsumeIntegralInRange<size_t>(0, pdu.size() - 1)] ^= input.ConsumeIntegralInRange<uint8_t>(1, 255);
    }
    return pdu;
}

template <class Pdu>
std::vector<uint8_t> bytes_of(const Pdu &pdu) {
    const auto *bytes = reinterpret_cast<const uint8_t *>(&pdu);
    return {bytes, bytes + sizeof(pdu)};
}

// Makes `bytes` bytes. The input determines the first ones (DSM ranges are read) and the fill value of the rest.
inline std::vector<uint8_t> payload(FuzzedDataProvider &input, size_t bytes) {
    std::vector<uint8_t> data = input.ConsumeBytes<uint8_t>(input.ConsumeIntegralInRange<size_t>(0, 64));
    data.resize(bytes, input.ConsumeIntegral<uint8_t>());
    return data;
}

}  // namespace ftl::fuzz
