// SPDX-License-Identifier: BSD-3-Clause
// Deliberate defects, for tests/mutation to prove that `spdk-ftl torture` would find them. Only a build with
// -DSHIM_MUTATIONS=ON has them, and there SPDK_FTL_MUTATION names the one in force. In the product every MUTATED() is
// the constant false, and nothing is left of it.
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
