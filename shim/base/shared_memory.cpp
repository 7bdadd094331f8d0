// SPDX-License-Identifier: BSD-3-Clause
#include "base/shared_memory.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <mutex>
#include <system_error>
#include <vector>

namespace ftl {

SharedRange::~SharedRange() {
    ::close(fd);
}

namespace shared_memory {
namespace {

constexpr size_t kPlaces = 1024;  // further ranges are found by find(), but not by may_hold(): they are not shared

// begin and end of one range change one after the other, so may_hold() may be wrong for a moment. It is only a hint.
struct Place {
    std::atomic<uintptr_t> begin{0};
    std::atomic<uintptr_t> end{0};
};

std::mutex mutex;
std::vector<std::shared_ptr<SharedRange>> ranges;
std::array<Place, kPlaces> places;
std::atomic<size_t> places_used{0};

// With the mutex held.
void publish() noexcept {
    const size_t count = std::min(ranges.size(), kPlaces);
    for (size_t i = 0; i < std::max(count, places_used.load(std::memory_order_relaxed)); ++i) {
        const uintptr_t begin = i < count ? reinterpret_cast<uintptr_t>(ranges[i]->data) : 0;
        places[i].end.store(0, std::memory_order_relaxed);
        places[i].begin.store(begin, std::memory_order_relaxed);
        places[i].end.store(i < count ? begin + ranges[i]->bytes : 0, std::memory_order_relaxed);
    }
    places_used.store(count, std::memory_order_release);
}

}  // namespace

std::shared_ptr<SharedRange> add(uint8_t *data, uint64_t bytes, int fd, uint64_t offset, Sharing sharing) {
    const int own = ::fcntl(fd, F_DUPFD_CLOEXEC, 0);
    if (own < 0) {
        throw std::system_error(errno, std::generic_category(), "a descriptor for shared memory");
    }
    auto range = std::make_shared<SharedRange>(data, bytes, own, offset, sharing);
    const std::lock_guard lock(mutex);
    ranges.push_back(range);
    publish();
    return range;
}

void remove(const std::shared_ptr<SharedRange> &range) noexcept {
    range->gone.store(true, std::memory_order_release);
    const std::lock_guard lock(mutex);
    std::erase(ranges, range);
    publish();
}

std::shared_ptr<SharedRange> find(const void *address) {
    const std::lock_guard lock(mutex);
    const auto found =
        std::find_if(ranges.begin(), ranges.end(), [address](const auto &range) { return range->holds(address, 1); });
    return found == ranges.end() ? nullptr : *found;
}

bool may_hold(const void *address) noexcept {
    const auto at = reinterpret_cast<uintptr_t>(address);
    const size_t count = places_used.load(std::memory_order_acquire);
    for (size_t i = 0; i < count; ++i) {
        if (at >= places[i].begin.load(std::memory_order_relaxed) &&
            at < places[i].end.load(std::memory_order_relaxed)) {
            return true;
        }
    }
    return false;
}

int sealed_file(const char *name, uint64_t bytes) {
    const int fd = ::memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd >= 0 && ::ftruncate(fd, static_cast<off_t>(bytes)) == 0 &&
        ::fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) == 0) {
        return fd;
    }
    const int error = errno;
    if (fd >= 0) {
        ::close(fd);
    }
    throw std::system_error(error, std::generic_category(), std::to_string(bytes) + " bytes of shared memory");
}

}  // namespace shared_memory

}  // namespace ftl
