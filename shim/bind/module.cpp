// SPDX-License-Identifier: BSD-3-Clause
#include <nanobind/nanobind.h>

#include "bind/bindings.hpp"

NB_MODULE(_shim, m) {
    m.doc() = "The C++ shim: I/O queues, emulated media, FTL data path.";
    ftl::bind_enums(m);
    ftl::bind_events(m);
    ftl::bind_reactor(m);
    ftl::bind_generated(m);
    ftl::bind_media(m);
    ftl::bind_virtual(m);
    ftl::bind_tls(m);
    ftl::bind_qpair(m);
    ftl::bind_shared_host(m);
    ftl::bind_core_config(m);
    ftl::bind_core_account(m);
    ftl::bind_band_columns(m);
    ftl::bind_core(m);
    ftl::bind_restored_l2p(m);
    ftl::bind_checkpoint_pages(m);
    ftl::bind_gate(m);
    ftl::bind_crossing(m);
    ftl::bind_load(m);
    ftl::bind_sim(m);
    ftl::bind_nbd(m);
    ftl::bind_vfio_user(m);
}
