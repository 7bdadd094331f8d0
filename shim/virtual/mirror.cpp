// SPDX-License-Identifier: BSD-3-Clause
#include "virtual/mirror.hpp"

#include <stdexcept>
#include <string>
#include <utility>

#include "reactor/error_class.hpp"
#include "virtual/range.hpp"

namespace ftl {

Mirror::Mirror(std::shared_ptr<Reactor> reactor, Members members, uint64_t block_count)
    : info_(info_of(members)), children_(kChildren), registration_(std::move(reactor), *this) {
    for (std::shared_ptr<BlockDevice> &member : members) {
        if (block_count == 0 || block_count > member->info().block_count) {
            throw std::invalid_argument("a member has fewer than " + std::to_string(block_count) + " blocks");
        }
        members_.push_back({std::move(member)});
    }
    alive_ = static_cast<uint32_t>(members_.size());
    info_.block_count = block_count;
    for (Child &child : children_) {
        child.device = this;
        child.io.owner = &child;
        child.io.complete = &Mirror::on_complete;
        child.next_free = std::exchange(free_children_, &child);
    }
}

void Mirror::submit(Io &io) noexcept {
    io.result = 0;
    io.status = status::ok;
    io.do_not_retry = false;
    for (uint64_t &data : io.device_data) {
        data = 0;
    }
    const bool of_zones = io.op == Op::append || io.op == Op::zone_send || io.op == Op::zone_report;
    const Status refused = of_zones ? status::invalid_opcode : check_range(info_, io);
    if (refused != status::ok) {
        finish(io, refused);
    } else if (!waiting_.empty() || !can_send(io)) {
        waiting_.push(io);
    } else {
        send(io);
    }
}

bool Mirror::can_send(const Io &io) const noexcept {
    if (io.op == Op::read) {
        return free_count_ > 0;
    }
    return correcting_ == 0 && free_count_ >= alive_;
}

void Mirror::send(Io &io) noexcept {
    if (alive_ == 0) {
        finish(io, status::internal_error);
    } else if (io.op == Op::read) {
        send_read(io);
    } else {
        send_modification(io);
    }
}

void Mirror::send_modification(Io &io) noexcept {
    ++modifications_;
    ++modifying_;
    io.device_data[kOutstanding] = alive_;
    const auto count = static_cast<uint32_t>(members_.size());
    for (uint32_t i = 0; i < count; ++i) {
        if (members_[i].alive) {
            Child &child = child_for(i, io);
            lend(io, child.io, io.lba, io.block_count);
            members_[i].device->submit(child.io);
        }
    }
}

void Mirror::send_read(Io &io) noexcept {
    const auto count = static_cast<uint32_t>(members_.size());
    uint32_t best = count;
    for (uint32_t i = 0; i < count; ++i) {
        if (members_[i].alive && (best == count || members_[i].blocks_to_read < members_[best].blocks_to_read)) {
            best = i;
        }
    }
    io.device_data[kFirst] = best;
    io.device_data[kNext] = 0;
    io.device_data[kSince] = modifying_ == 0 ? modifications_ : kUnsafe;
    read_from(best, io);
}

void Mirror::read_from(uint32_t member, Io &io) noexcept {
    Child &child = child_for(member, io);
    lend(io, child.io, io.lba, io.block_count);
    members_[member].blocks_to_read += io.block_count;
    members_[member].device->submit(child.io);
}

Mirror::Child &Mirror::child_for(uint32_t member, Io &parent) noexcept {
    Child &child = *free_children_;
    free_children_ = child.next_free;
    --free_count_;
    child.parent = &parent;
    child.member = member;
    child.corrects = false;
    ++members_[member].users;
    return child;
}

void Mirror::on_complete(Io &io) noexcept {
    auto &child = *static_cast<Child *>(io.owner);
    child.device->returned(child);
}

void Mirror::returned(Child &child) noexcept {
    Io &parent = *std::exchange(child.parent, nullptr);
    const Status status = child.io.status;
    const uint32_t member = child.member;
    const bool corrects = child.corrects;
    --members_[member].users;
    if (parent.op == Op::read && !corrects) {
        members_[member].blocks_to_read -= parent.block_count;
    }
    child.next_free = std::exchange(free_children_, &child);
    ++free_count_;

    if (corrects) {
        --correcting_;
        if (status != status::ok) {
            fail(member, status);
        }
        finish(parent, status::ok);
    } else if (parent.op == Op::read) {
        read_done(parent, member, status);
    } else {
        if (status == status::ok) {
            ++parent.device_data[kSucceeded];
        } else {
            fail(member, status);
        }
        if (--parent.device_data[kOutstanding] == 0) {
            --modifying_;
            finish(parent, parent.device_data[kSucceeded] > 0 ? status::ok : status::internal_error);
        }
    }
    while (!waiting_.empty() && can_send(*waiting_.front())) {
        send(*waiting_.pop());
    }
}

void Mirror::read_done(Io &io, uint32_t member, Status status) noexcept {
    if (status != status::ok) {
        read_elsewhere(io);
    } else if (member == io.device_data[kFirst]) {
        finish(io, status::ok);
    } else {
        correct(io);
    }
}

// There is a free child: that of the read that failed.
void Mirror::read_elsewhere(Io &io) noexcept {
    const auto first = static_cast<uint32_t>(io.device_data[kFirst]);
    for (auto i = static_cast<uint32_t>(io.device_data[kNext]); i < members_.size(); ++i) {
        if (i != first && members_[i].alive) {
            io.device_data[kNext] = i + 1;
            read_from(i, io);
            return;
        }
    }
    fail(first, status::internal_error);
    finish(io, status::internal_error);
}

void Mirror::correct(Io &io) noexcept {
    const auto first = static_cast<uint32_t>(io.device_data[kFirst]);
    if (!members_[first].alive || io.device_data[kSince] != modifications_) {
        finish(io, status::ok);
        return;
    }
    ++correcting_;
    Child &child = child_for(first, io);
    child.corrects = true;
    lend(io, child.io, io.lba, io.block_count);
    child.io.op = Op::write;
    members_[first].device->submit(child.io);
}

void Mirror::fail(uint32_t member, Status status) noexcept {
    if (members_[member].alive) {
        members_[member].alive = false;
        --alive_;
        registration_.reactor().emit(EventKind::member_failed, registration_.id(), member, status);
    }
}

void Mirror::finish(Io &io, Status status) noexcept {
    io.status = status;
    io.do_not_retry = dnr(status);
    done_.push(io);
}

// Members are not asked to give up: the member of a write that one gives up would have failed.
void Mirror::cancel(Io &io) noexcept {
    if (waiting_.remove(io)) {
        finish(io, status::aborted);
    }
}

uint32_t Mirror::poll(uint64_t /*now_ns*/) noexcept {
    const uint32_t count = done_.count();
    for (uint32_t i = 0; i < count; ++i) {
        Io &io = *done_.pop();
        io.complete(io);
    }
    return count;
}

void Mirror::resize(uint64_t block_count) {
    registration_.reactor().call([&] { info_.block_count = block_count; });
}

void Mirror::remove(uint32_t member) {
    registration_.reactor().call([&] {
        if (member >= members_.size()) {
            throw std::invalid_argument("there is no member " + std::to_string(member));
        }
        if (members_[member].alive) {
            members_[member].alive = false;
            --alive_;
        }
    });
}

std::vector<uint32_t> Mirror::gone() {
    std::vector<uint32_t> result;
    registration_.reactor().call([&] {
        for (uint32_t i = 0; i < members_.size(); ++i) {
            if (!members_[i].alive) {
                result.push_back(i);
            }
        }
    });
    return result;
}

bool Mirror::release() {
    Members unused;  // the caller destroys them, not the reactor's thread
    bool all = true;
    registration_.reactor().call([&] {
        for (Member &member : members_) {
            if (!member.alive && member.device) {
                if (member.users == 0) {
                    unused.push_back(std::move(member.device));
                } else {
                    all = false;
                }
            }
        }
    });
    return all;
}

}  // namespace ftl
