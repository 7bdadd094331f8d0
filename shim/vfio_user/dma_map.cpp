// SPDX-License-Identifier: BSD-3-Clause
#include "vfio_user/dma_map.hpp"

#include <algorithm>
#include <iterator>
#include <sstream>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>

namespace ftl {
namespace {

std::string named(uint64_t iova, uint64_t bytes) {
    std::ostringstream text;
    text << "region of " << bytes << " bytes at 0x" << std::hex << iova;
    return text.str();
}

void check_range(uint64_t iova, uint64_t bytes) {
    if (bytes == 0 || iova % DmaMap::kPageBytes != 0 || bytes % DmaMap::kPageBytes != 0) {
        throw std::invalid_argument(named(iova, bytes) + ": address and size must be multiples of 4096, size not 0");
    }
    if (bytes > ~uint64_t{0} - iova || bytes > uint64_t{1} << 62) {
        throw std::invalid_argument(named(iova, bytes) + ": it is too large");
    }
}

}  // namespace

void DmaMap::map(uint64_t iova, uint64_t bytes, int fd, uint64_t offset, bool writable) {
    check_range(iova, bytes);
    if (offset % kPageBytes != 0 || offset > uint64_t{1} << 62) {
        throw std::invalid_argument(named(iova, bytes) + ": offset " + std::to_string(offset) +
                                    " is not a multiple of 4096, or too large");
    }
    const std::lock_guard lock(mutex_);
    Regions regions = table_->regions;
    const auto place = std::lower_bound(
        regions.begin(), regions.end(), iova,
        [](const std::shared_ptr<const Region> &region, uint64_t value) { return region->iova < value; });
    const bool into_next = place != regions.end() && (*place)->iova < iova + bytes;
    const bool into_last =
        place != regions.begin() && (*std::prev(place))->iova + (*std::prev(place))->mapping.bytes() > iova;
    if (into_next || into_last) {
        throw std::invalid_argument(named(iova, bytes) + ": it overlaps another one");
    }
    release_unused();
    if (regions.size() + lingering_.size() >= kRegionsMax) {
        throw std::invalid_argument(named(iova, bytes) + ": there are " + std::to_string(kRegionsMax) + " already");
    }
    // The braces are evaluated in order, but the mapping can't be moved: it is made in place.
    const std::shared_ptr<Region> region(new Region{iova, {fd, offset, bytes, writable, broken_}, writable});
    regions.insert(place, region);
    publish(table_of(std::move(regions)));
}

void DmaMap::unmap(uint64_t iova, uint64_t bytes) {
    constexpr auto kLook = std::chrono::microseconds(200);
    std::shared_ptr<const Region> region;
    {
        const std::lock_guard lock(mutex_);
        Regions regions = table_->regions;
        const auto found = std::find_if(regions.begin(), regions.end(), [&](const std::shared_ptr<const Region> &each) {
            return each->iova == iova && each->mapping.bytes() == bytes;
        });
        if (found == regions.end()) {
            throw std::invalid_argument(named(iova, bytes) + ": there is none like that");
        }
        region = *found;
        regions.erase(found);
        auto table = table_of(std::move(regions));
        lingering_.push_back(region);
        publish(std::move(table));
    }
    const auto until = std::chrono::steady_clock::now() + kUnmapWait;
    while (lingers(region) && std::chrono::steady_clock::now() < until) {
        std::this_thread::sleep_for(kLook);
    }
}

void DmaMap::clear() {
    const std::lock_guard lock(mutex_);
    const Regions &regions = table_->regions;
    lingering_.insert(lingering_.end(), regions.begin(), regions.end());
    publish(table_of({}));
    release_unused();
}

size_t DmaMap::lingering_count() {
    const std::lock_guard lock(mutex_);
    release_unused();
    return lingering_.size();
}

size_t DmaMap::region_count() {
    const std::lock_guard lock(mutex_);
    return table_->regions.size();
}

void DmaMap::attach(const std::shared_ptr<Reactor> &reactor, const MemoryUser *user) {
    const std::lock_guard lock(mutex_);
    ++readers_[reactor];
    if (user != nullptr) {
        users_.emplace(user, reactor);
    }
}

void DmaMap::detach(const std::shared_ptr<Reactor> &reactor, const MemoryUser *user) {
    const std::lock_guard lock(mutex_);
    users_.erase(user);
    release_unused();
    if (--readers_[reactor] == 0) {
        readers_.erase(reactor);
    }
}

std::vector<uint8_t *> DmaMap::pages(uint64_t iova, uint64_t bytes, bool writable, Regions &keep) {
    if (iova % kPageBytes != 0) {
        throw std::invalid_argument(named(iova, bytes) + ": it must begin with a page");
    }
    const std::lock_guard lock(mutex_);
    std::vector<uint8_t *> result;
    uint32_t hint = 0;
    for (uint64_t done = 0; done < bytes; done += kPageBytes) {
        const iovec found = find(iova + done, std::min(bytes - done, kPageBytes), writable, hint);
        if (found.iov_len == 0) {
            throw std::invalid_argument(named(iova, bytes) + ": not all of it is mapped" +
                                        (writable ? " and writable" : ""));
        }
        result.push_back(static_cast<uint8_t *>(found.iov_base));
        if (keep.empty() || keep.back() != table_->regions[hint]) {
            keep.push_back(table_->regions[hint]);
        }
    }
    return result;
}

iovec DmaMap::part(const Span &span, uint64_t iova, uint64_t bytes, bool writable) noexcept {
    if (writable && !span.writable) {
        return {nullptr, 0};
    }
    return {span.data + (iova - span.begin), std::min(bytes, span.end - iova)};
}

iovec DmaMap::find(uint64_t iova, uint64_t bytes, bool writable, uint32_t &hint) const noexcept {
    const std::vector<Span> &spans = published_.load(std::memory_order_acquire)->spans;
    if (hint < spans.size() && iova >= spans[hint].begin && iova < spans[hint].end) [[likely]] {
        return part(spans[hint], iova, bytes, writable);
    }
    const auto after = std::upper_bound(spans.begin(), spans.end(), iova,
                                        [](uint64_t value, const Span &span) { return value < span.begin; });
    if (after == spans.begin() || iova >= std::prev(after)->end) {
        return {nullptr, 0};
    }
    hint = static_cast<uint32_t>(std::prev(after) - spans.begin());
    return part(spans[hint], iova, bytes, writable);
}

std::unique_ptr<const DmaMap::Table> DmaMap::table_of(Regions regions) {
    auto table = std::make_unique<Table>();
    table->regions = std::move(regions);
    table->spans.reserve(table->regions.size());
    for (const std::shared_ptr<const Region> &region : table->regions) {
        const GuardedMapping &mapping = region->mapping;
        table->spans.push_back({region->iova, region->iova + mapping.bytes(), mapping.data(), region->writable});
    }
    return table;
}

bool DmaMap::in_use(const Region &region) const {
    const uint8_t *begin = region.mapping.data();
    const uint8_t *end = begin + region.mapping.bytes();
    return std::any_of(users_.begin(), users_.end(), [&](const auto &each) {
        const auto &[user, reactor] = each;
        bool used = false;
        reactor->call([&, user = user] { used = user->uses(begin, end); });
        return used;
    });
}

void DmaMap::release_unused() {
    std::erase_if(lingering_, [this](const std::shared_ptr<const Region> &region) { return !in_use(*region); });
}

bool DmaMap::lingers(const std::shared_ptr<const Region> &region) {
    const std::lock_guard lock(mutex_);
    release_unused();
    if (std::find(lingering_.begin(), lingering_.end(), region) == lingering_.end()) {
        return false;
    }
    for (const auto &[user, reactor] : users_) {
        if (!reactor->running()) {
            reactor->step();  // nobody else brings the commands back
        }
    }
    return true;
}

void DmaMap::publish(std::unique_ptr<const Table> table) {
    published_.store(table.get(), std::memory_order_release);
    table_.swap(table);
    for (const auto &[reactor, queues] : readers_) {
        reactor->call([] {});
    }
}

}  // namespace ftl
