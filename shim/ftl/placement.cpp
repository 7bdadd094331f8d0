// SPDX-License-Identifier: BSD-3-Clause
#include "ftl/placement.hpp"

#include <algorithm>
#include <stdexcept>
#include <string>

namespace ftl {
namespace {

void check_table(const AgeClasses &table, uint8_t first, uint8_t end, const char *name) {
    if (table.limit_count >= kClassesMax) {
        throw std::invalid_argument(std::string("placement: ") + name + " has more than 7 limits");
    }
    for (uint8_t i = 0; i <= table.limit_count; ++i) {
        if (table.classes[i] < first || table.classes[i] >= end) {
            throw std::invalid_argument(std::string("placement: ") + name + " names class " +
                                        std::to_string(table.classes[i]) + ", which must be within " +
                                        std::to_string(first) + ".." + std::to_string(end - 1));
        }
    }
    if (std::adjacent_find(table.limits.begin(), table.limits.begin() + table.limit_count,
                           [](uint64_t one, uint64_t next) { return one >= next; }) !=
        table.limits.begin() + table.limit_count) {
        throw std::invalid_argument(std::string("placement: the limits of ") + name + " do not ascend");
    }
}

}  // namespace

void Placement::check() const {
    if (class_count > kClassesMax || user_count < 1 || user_count >= class_count) {
        throw std::invalid_argument("placement: classes and user_classes are " + std::to_string(class_count) + " and " +
                                    std::to_string(user_count) + ": each side needs at least one, and all may be 8");
    }
    check_table(user, 0, user_count, "user");
    for (const AgeClasses &table : relocated) {
        check_table(table, user_count, class_count, "relocated");
    }
    if (unwritten >= user_count) {
        throw std::invalid_argument("placement: unwritten is " + std::to_string(unwritten) +
                                    ", but must be a class of hosts' writes");
    }
    if (region_blocks == 0) {
        throw std::invalid_argument("placement: region_blocks must be at least 1");
    }
    if (std::any_of(regions.begin(), regions.end(),
                    [this](uint8_t each) { return each >= user_count && each != kNoClass; })) {
        throw std::invalid_argument("placement: a region names a class that is not one of hosts' writes");
    }
}

}  // namespace ftl
