// SPDX-License-Identifier: BSD-3-Clause
#include "bind/placement_of.hpp"

#include <algorithm>
#include <stdexcept>
#include <string>

namespace ftl {
namespace {

uint8_t class_of(uint32_t given) {
    if (given > kNoClass) {
        throw std::invalid_argument("placement: there is no class " + std::to_string(given));
    }
    return static_cast<uint8_t>(given);
}

AgeClasses table_of(const GivenAges &given) {
    const auto &[classes, limits] = given;
    if (classes.empty() || classes.size() > kClassesMax || limits.size() + 1 != classes.size()) {
        throw std::invalid_argument("placement: a table needs 1..8 classes, and one limit fewer than classes");
    }
    AgeClasses table;
    table.limit_count = static_cast<uint8_t>(limits.size());
    std::copy(limits.begin(), limits.end(), table.limits.begin());
    std::transform(classes.begin(), classes.end(), table.classes.begin(), class_of);
    return table;
}

}  // namespace

Placement placement_of(uint32_t classes, uint32_t user_classes, const GivenAges &user, uint32_t unwritten,
                       const std::vector<GivenAges> &relocated, const std::optional<GivenRegions> &regions,
                       uint64_t region_blocks) {
    if (relocated.empty() || relocated.size() > kClassesMax) {
        throw std::invalid_argument("placement: relocated needs a table for each class that a band may be of, 1..8");
    }
    Placement placement;
    placement.class_count = class_of(classes);
    placement.user_count = class_of(user_classes);
    placement.user = table_of(user);
    placement.unwritten = class_of(unwritten);
    // A band may have been written while there were more classes.
    placement.relocated.fill(table_of(relocated.back()));
    std::transform(relocated.begin(), relocated.end(), placement.relocated.begin(), table_of);
    if (regions) {
        placement.regions.assign(regions->data(), regions->data() + regions->shape(0));
    }
    placement.region_blocks = region_blocks;
    return placement;
}

}  // namespace ftl
