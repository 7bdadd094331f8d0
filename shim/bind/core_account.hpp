// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <nanobind/nanobind.h>

#include "ftl/core.hpp"

namespace ftl {

// Defines the FtlCore methods with which Python reads the core's state: bands, counters, L2P.
void def_core_account(nanobind::class_<FtlCore, BlockDevice> &core);

}  // namespace ftl
