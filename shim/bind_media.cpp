// SPDX-License-Identifier: BSD-3-Clause
#include "bindings.hpp"

namespace ftl {

void bind_media(nanobind::module_ &m) {
    (void)m;
}

}  // namespace ftl
