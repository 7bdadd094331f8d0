// SPDX-License-Identifier: BSD-3-Clause
#include "vfio_user/guarded_mapping.hpp"

#include <linux/magic.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <mutex>
#include <stdexcept>
#include <string>
#include <system_error>
#include <utility>

namespace ftl {
namespace {

// What the handler sees. An entry is being changed while its version is odd; it is not that of the memory that was
// accessed then, because that memory stays mapped during the access.
struct Guarded {
    std::atomic<uint32_t> version;
    std::atomic<uintptr_t> begin;  // 0: free
    std::atomic<uintptr_t> end;
    std::atomic<bool> writable;
    std::atomic<std::atomic<bool> *> broken;
};
static_assert(std::atomic<uintptr_t>::is_always_lock_free && std::atomic<bool>::is_always_lock_free);

std::array<Guarded, GuardedMapping::kMappingsMax> table;
std::atomic<uint32_t> table_used{0};  // entries from here on were never used
std::mutex table_mutex;               // of those who change it
struct sigaction before;              // the handler that was there

void change(Guarded &entry, uintptr_t begin, uintptr_t end, bool writable, std::atomic<bool> *broken) noexcept {
    const uint32_t version = entry.version.load(std::memory_order_relaxed);
    entry.version.store(version + 1, std::memory_order_relaxed);
    std::atomic_thread_fence(std::memory_order_release);
    entry.begin.store(begin, std::memory_order_relaxed);
    entry.end.store(end, std::memory_order_relaxed);
    entry.writable.store(writable, std::memory_order_relaxed);
    entry.broken.store(broken, std::memory_order_relaxed);
    entry.version.store(version + 2, std::memory_order_release);
}

bool replace_mapping_at(uintptr_t address) noexcept {
    const uint32_t used = table_used.load(std::memory_order_acquire);
    for (uint32_t i = 0; i < used; ++i) {
        const Guarded &entry = table[i];
        const uint32_t version = entry.version.load(std::memory_order_acquire);
        const uintptr_t begin = entry.begin.load(std::memory_order_relaxed);
        const uintptr_t end = entry.end.load(std::memory_order_relaxed);
        const bool writable = entry.writable.load(std::memory_order_relaxed);
        std::atomic<bool> *broken = entry.broken.load(std::memory_order_relaxed);
        std::atomic_thread_fence(std::memory_order_acquire);
        if (version % 2 != 0 || entry.version.load(std::memory_order_relaxed) != version || address < begin ||
            address >= end) {
            continue;
        }
        void *memory = reinterpret_cast<void *>(begin);
        const int access = PROT_READ | (writable ? PROT_WRITE : 0);
        if (::mmap(memory, end - begin, access, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0) ==
            MAP_FAILED) {
            return false;
        }
        broken->store(true, std::memory_order_release);
        return true;
    }
    return false;
}

void on_sigbus(int signal, siginfo_t *info, void *context) noexcept {
    const int error = errno;
    const bool by_access = info->si_code > 0;
    if (by_access && replace_mapping_at(reinterpret_cast<uintptr_t>(info->si_addr))) {
        errno = error;
        return;
    }
    if ((before.sa_flags & SA_SIGINFO) != 0) {
        before.sa_sigaction(signal, info, context);
    } else if (before.sa_handler != SIG_DFL && before.sa_handler != SIG_IGN) {
        before.sa_handler(signal);
    } else if (by_access || before.sa_handler == SIG_DFL) {
        // The access is repeated, or the signal is sent again, and nobody handles it.
        struct sigaction none {};
        none.sa_handler = SIG_DFL;
        sigaction(SIGBUS, &none, nullptr);
        if (!by_access) {
            (void)std::raise(signal);
        }
    }
    errno = error;
}

void install() {
    static std::once_flag once;
    std::call_once(once, [] {
        struct sigaction handler {};
        handler.sa_sigaction = on_sigbus;
        handler.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_RESTART;
        sigemptyset(&handler.sa_mask);
        if (sigaction(SIGBUS, nullptr, &before) != 0 || sigaction(SIGBUS, &handler, nullptr) != 0) {
            throw std::system_error(errno, std::generic_category(), "SIGBUS");
        }
    });
}

// Returns how much is to be mapped: the kernel maps huge pages as a whole, and unmaps no part of one.
uint64_t check(int fd, uint64_t offset, uint64_t bytes) {
    struct stat file {};
    struct statfs system {};
    if (fstat(fd, &file) != 0 || fstatfs(fd, &system) != 0) {
        throw std::system_error(errno, std::generic_category(), "shared memory");
    }
    const auto type = static_cast<uint64_t>(system.f_type);
    if (!S_ISREG(file.st_mode) || (type != TMPFS_MAGIC && type != HUGETLBFS_MAGIC && type != RAMFS_MAGIC)) {
        throw std::invalid_argument("shared memory must be a file in memory: a memfd, or of tmpfs or hugetlbfs");
    }
    const auto there = static_cast<uint64_t>(file.st_size);
    if (offset > there || bytes > there - offset) {
        throw std::invalid_argument("the file of the shared memory has " + std::to_string(there) + " bytes, not " +
                                    std::to_string(bytes) + " from " + std::to_string(offset) + " on");
    }
    const uint64_t unit = type == HUGETLBFS_MAGIC ? static_cast<uint64_t>(system.f_bsize) : 1;
    return (bytes + unit - 1) / unit * unit;
}

}  // namespace

GuardedMapping::GuardedMapping(int fd, uint64_t offset, uint64_t bytes, bool writable,
                               std::shared_ptr<std::atomic<bool>> broken)
    : bytes_(bytes), mapped_bytes_(check(fd, offset, bytes)), broken_(std::move(broken)) {
    install();
    const int access = PROT_READ | (writable ? PROT_WRITE : 0);
    void *data = ::mmap(nullptr, mapped_bytes_, access, MAP_SHARED, fd, static_cast<off_t>(offset));
    if (data == MAP_FAILED) {
        throw std::system_error(errno, std::generic_category(), std::to_string(bytes) + " bytes of shared memory");
    }
    data_ = static_cast<uint8_t *>(data);
    const auto begin = reinterpret_cast<uintptr_t>(data);
    const std::lock_guard lock(table_mutex);
    const auto free = std::find_if(table.begin(), table.end(), [](const Guarded &entry) { return entry.begin == 0; });
    if (free == table.end()) {
        ::munmap(data, mapped_bytes_);
        throw std::invalid_argument("more than " + std::to_string(kMappingsMax) + " regions of shared memory");
    }
    place_ = static_cast<uint32_t>(free - table.begin());
    change(*free, begin, begin + mapped_bytes_, writable, broken_.get());
    table_used = std::max(table_used.load(), place_ + 1);
}

GuardedMapping::~GuardedMapping() {
    {
        const std::lock_guard lock(table_mutex);
        change(table[place_], 0, 0, false, nullptr);
    }
    ::munmap(data_, mapped_bytes_);
}

}  // namespace ftl
