// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <nanobind/nanobind.h>

#include <cstddef>
#include <utility>

namespace ftl {

// The bytes of a Python object, held until release().
class HeldBuffer {
public:
    HeldBuffer() = default;
    HeldBuffer(nanobind::handle object, bool writable) {
        if (PyObject_GetBuffer(object.ptr(), &view_, writable ? PyBUF_WRITABLE : PyBUF_SIMPLE) != 0) {
            throw nanobind::python_error();
        }
        held_ = true;
    }
    HeldBuffer(HeldBuffer &&other) noexcept : view_(other.view_), held_(std::exchange(other.held_, false)) {}
    HeldBuffer &operator=(HeldBuffer &&other) noexcept {
        release();
        view_ = other.view_;
        held_ = std::exchange(other.held_, false);
        return *this;
    }
    ~HeldBuffer() { release(); }

    void release() noexcept {
        if (std::exchange(held_, false)) {
            PyBuffer_Release(&view_);
        }
    }
    [[nodiscard]] void *data() const noexcept { return held_ ? view_.buf : nullptr; }
    [[nodiscard]] size_t bytes() const noexcept { return held_ ? static_cast<size_t>(view_.len) : 0; }

private:
    Py_buffer view_{};
    bool held_ = false;
};

}  // namespace ftl
