// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <nanobind/nanobind.h>

#include "ftl/core.hpp"

namespace ftl {

// The methods of FtlCore by which Python asks how it stands: bands, counters, L2P.
void def_core_account(nanobind::class_<FtlCore, BlockDevice> &core);

}  // namespace ftl
