// SPDX-License-Identifier: BSD-3-Clause
// A Placement from what Python gives.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

#include "ftl/placement.hpp"

namespace ftl {

// Classes, and limits of ages.
using GivenAges = std::pair<std::vector<uint32_t>, std::vector<uint64_t>>;
using GivenRegions = nanobind::ndarray<const uint8_t, nanobind::ndim<1>, nanobind::c_contig, nanobind::device::cpu>;

// Throws std::invalid_argument for tables of another form; Placement::check() checks what they say.
Placement placement_of(uint32_t classes, uint32_t user_classes, const GivenAges &user, uint32_t unwritten,
                       const std::vector<GivenAges> &relocated, const std::optional<GivenRegions> &regions,
                       uint64_t region_blocks);

}  // namespace ftl
