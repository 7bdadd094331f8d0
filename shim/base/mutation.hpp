// SPDX-License-Identifier: BSD-3-Clause
// Deliberate defects. tests/mutation uses them to prove that `spdk-ftl torture` finds such defects. Only builds with
// -DSHIM_MUTATIONS=ON have them, and SPDK_FTL_MUTATION selects the active one. In other builds MUTATED() is the
// constant false, and the compiler removes the code.
#pragma once

#ifdef SHIM_MUTATIONS
#include <cstdlib>
#include <string_view>

namespace ftl {
inline bool mutated(std::string_view name) noexcept {
    static const char *const chosen = std::getenv("SPDK_FTL_MUTATION");
    return chosen != nullptr && name == chosen;
}
}  // namespace ftl
#define MUTATED(name) ::ftl::mutated(#name)
#else
#define MUTATED(name) false
#endif
