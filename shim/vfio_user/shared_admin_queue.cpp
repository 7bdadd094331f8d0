// SPDX-License-Identifier: BSD-3-Clause
#include "vfio_user/shared_admin_queue.hpp"

#include <cstring>
#include <stdexcept>
#include <utility>

#include "base/iov_cursor.hpp"

namespace ftl {

SharedAdminQueue::SharedAdminQueue(std::shared_ptr<Reactor> reactor, std::shared_ptr<DmaMap> memory, int bar0_fd,
                                   int record_fd, const SharedQueueConfig &config)
    : reactor_(std::move(reactor)),
      memory_(std::move(memory)),
      queue_(*memory_, bar0_fd, record_fd, config),
      command_memory_(*memory_),
      naps_(queue_.doorbells(), *reactor_),
      slots_(queue_.slot_count()),
      waiting_(queue_.slot_count()) {
    memory_->attach(reactor_, nullptr);
    // The reactor only borrows the queue. close() removes it from the reactor.
    const std::shared_ptr<Poller> borrowed(std::shared_ptr<void>(), this);
    reactor_->call([&] { id_ = reactor_->add(borrowed); });
}

SharedAdminQueue::~SharedAdminQueue() {
    close();
}

uint32_t SharedAdminQueue::poll(uint64_t now_ns) noexcept {
    if (dead_) {
        return 0;
    }
    if (!queue_.look()) {
        dead_ = true;
        naps_.end();
        reactor_->emit(EventKind::shared_qpair_closed, id_, static_cast<uint64_t>(queue_.fault()),
                       queue_.fault_detail());
        return 1;
    }
    uint32_t work = 0;
    for (; replayed_ < queue_.unfinished().size(); ++work) {
        give(queue_.unfinished()[replayed_++]);
    }
    for (uint32_t number; (number = queue_.fetch()) != SharedQueue::kNone; ++work) {
        give(number);
    }
    naps_.polled(now_ns, work > 0, queue_.seen());
    return work;
}

void SharedAdminQueue::give(uint32_t number) noexcept {
    waiting_[(waiting_head_ + waiting_count_) % waiting_.size()] = number;
    ++waiting_count_;
    if (!told_) {
        told_ = true;
        reactor_->emit(EventKind::admin_command, id_);
    }
}

std::optional<AdminCommand> SharedAdminQueue::take() {
    std::optional<AdminCommand> taken;
    reactor_->call([&] {
        if (dead_ || waiting_count_ == 0) {
            told_ = false;
            return;
        }
        const uint32_t number = waiting_[waiting_head_];
        waiting_head_ = (waiting_head_ + 1) % static_cast<uint32_t>(waiting_.size());
        --waiting_count_;
        Slot &slot = slots_[number];
        slot.taken = true;
        ++slot.ticket;
        AdminCommand &command = taken.emplace();
        command.token = uint64_t{slot.ticket} << 32 | number;
        std::memcpy(command.sqe.data(), &queue_.command(number), command.sqe.size());
    });
    return taken;
}

SharedAdminQueue::Slot &SharedAdminQueue::slot_of(uint64_t token) {
    const auto number = static_cast<uint32_t>(token);
    if (number >= slots_.size() || !slots_[number].taken || slots_[number].ticket != token >> 32) {
        throw std::invalid_argument("there is no such command");
    }
    return slots_[number];
}

Status SharedAdminQueue::point(uint64_t token, size_t length, bool to_client, uint32_t &count) noexcept {
    return command_memory_.point(queue_.command(static_cast<uint32_t>(token)), static_cast<uint32_t>(length), to_client,
                                 iov_, count);
}

std::optional<std::string> SharedAdminQueue::read_data(uint64_t token, size_t length) {
    if (length > kDataBytesMax) {
        throw std::invalid_argument("data of " + std::to_string(length) + " bytes, at most " +
                                    std::to_string(kDataBytesMax));
    }
    std::optional<std::string> data;
    reactor_->call([&] {
        if (dead_) {
            return;
        }
        (void)slot_of(token);
        uint32_t count = 0;
        if (length == 0 || point(token, length, false, count) == status::ok) {
            data.emplace(length, '\0');
            IovCursor(std::span<const iovec>(iov_.data(), count)).read(data->data(), length);
        }
    });
    return data;
}

bool SharedAdminQueue::complete(uint64_t token, Status status, uint64_t result, std::span<const uint8_t> data) {
    if (data.size() > kDataBytesMax) {
        throw std::invalid_argument("data of " + std::to_string(data.size()) + " bytes, at most " +
                                    std::to_string(kDataBytesMax));
    }
    bool placed = true;
    reactor_->call([&] {
        if (dead_) {
            return;
        }
        Slot &slot = slot_of(token);
        if (!data.empty()) {
            uint32_t count = 0;
            placed = point(token, data.size(), true, count) == status::ok;
            if (!placed) {
                return;
            }
            IovCursor(std::span<const iovec>(iov_.data(), count)).write(data.data(), data.size());
        }
        slot.taken = false;
        queue_.complete(static_cast<uint32_t>(token), wire::status_to_wire(status), result);
    });
    return placed;
}

void SharedAdminQueue::close() {
    const std::lock_guard lock(control_mutex_);
    if (removed_from_reactor_) {
        return;
    }
    reactor_->call([this] {
        dead_ = true;
        naps_.end();
        reactor_->remove(id_);
    });
    memory_->detach(reactor_, nullptr);
    removed_from_reactor_ = true;
}

}  // namespace ftl
