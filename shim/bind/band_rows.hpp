// SPDX-License-Identifier: BSD-3-Clause
// Rows of bands for Python, which views them as records (band_row_layout()).
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <cstdint>
#include <memory>

#include "ftl/core.hpp"

namespace ftl {

using Array8 = nanobind::ndarray<nanobind::numpy, uint8_t, nanobind::ndim<1>>;

inline Array8 row_bytes(std::unique_ptr<BandRow[]> rows, size_t count) {
    BandRow *data = rows.release();
    const nanobind::capsule owner(data, [](void *memory) noexcept { delete[] static_cast<BandRow *>(memory); });
    return Array8(reinterpret_cast<uint8_t *>(data), {count * sizeof(BandRow)}, owner);
}

}  // namespace ftl
