// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <nanobind/nanobind.h>

#include <memory>
#include <utility>

namespace ftl {

// A queue or connection for Python: its destructor does not throw, and does not free memory that a device still uses.
template <typename T>
class ClosedByPython {
public:
    template <typename... Args>
    explicit ClosedByPython(std::in_place_t, Args &&...args)
        : value_(std::make_unique<T>(std::forward<Args>(args)...)) {}
    ClosedByPython(const ClosedByPython &) = delete;
    ClosedByPython &operator=(const ClosedByPython &) = delete;
    ~ClosedByPython() {
        try {
            const nanobind::gil_scoped_release unlocked;
            value_->close();
        } catch (...) {
            [[maybe_unused]] const auto *leaked = value_.release();
        }
    }
    [[nodiscard]] T &operator*() const noexcept { return *value_; }
    [[nodiscard]] T *operator->() const noexcept { return value_.get(); }

private:
    std::unique_ptr<T> value_;
};

}  // namespace ftl
