"""The answers of a controller to Identify. Base 2.0 section 5.17."""

from __future__ import annotations

from collections.abc import Mapping

from .. import identify, wire
from ..identify import ControllerTraits
from ..wire import Cns, Sqe, Status
from .capsule import Completion
from .namespace import Namespace


def answer(sqe: Sqe, traits: ControllerTraits, namespaces: Mapping[int, Namespace]) -> Completion:
    """traits: of the controller. namespaces: those that the controller's host sees."""
    cns, csi = sqe.cdw10 & 0xFF, sqe.cdw11 >> 24
    if cns == Cns.CONTROLLER:
        return Completion(data=identify.build_controller(traits))
    if traits.discovery:
        return Completion(Status.INVALID_FIELD)
    match cns:
        case Cns.NAMESPACE | Cns.CSI_NAMESPACE | Cns.INDEPENDENT_NAMESPACE | Cns.NAMESPACE_DESCRIPTORS:
            return _of_namespace(Cns(cns), csi, sqe.nsid, namespaces.get(sqe.nsid), traits)
        case Cns.ACTIVE_NAMESPACES | Cns.CSI_ACTIVE_NAMESPACES:
            if sqe.nsid > wire.NSID_MAX:
                return Completion(Status.INVALID_NAMESPACE)
            by_csi = cns == Cns.CSI_ACTIVE_NAMESPACES
            nsids = [nsid for nsid, ns in namespaces.items() if nsid > sqe.nsid and (not by_csi or ns.csi == csi)]
            return Completion(data=identify.build_nsid_list(nsids))
        case Cns.CSI_CONTROLLER if csi == wire.CSI_NVM:
            counts = [ns.traits.block_count for ns in namespaces.values()]
            return Completion(data=identify.build_nvm_controller(counts, traits.max_io_bytes))
        case Cns.CSI_CONTROLLER if csi == wire.CSI_ZNS and traits.zoned:
            appends = [ns.traits.max_append_bytes for ns in namespaces.values() if ns.csi == wire.CSI_ZNS]
            smallest = min(appends, default=traits.max_io_bytes)
            return Completion(data=identify.build_zns_controller(smallest, traits.max_io_bytes))
        case Cns.COMMAND_SETS:
            return Completion(data=identify.build_command_sets(zoned=traits.zoned))
    return Completion(Status.INVALID_FIELD)


def _of_namespace(
    cns: Cns, csi: int, nsid: int, namespace: Namespace | None, controller: ControllerTraits
) -> Completion:
    if not 1 <= nsid <= controller.max_nsid:
        return Completion(Status.INVALID_NAMESPACE)
    if namespace is None:
        # The page of an inactive namespace is all zeroes, but an inactive namespace has no descriptors.
        if cns == Cns.NAMESPACE_DESCRIPTORS:
            return Completion(Status.INVALID_NAMESPACE)
        return Completion(data=bytes(wire.PAGE_BYTES))
    traits = namespace.traits
    match cns:
        case Cns.NAMESPACE:
            allocated = namespace.device.allocated_blocks() if traits.thin else None
            return Completion(data=identify.build_namespace(traits, allocated, fabrics=controller.fabrics))
        case Cns.NAMESPACE_DESCRIPTORS:
            return Completion(data=identify.build_descriptors(traits))
        case Cns.INDEPENDENT_NAMESPACE:
            return Completion(data=identify.build_independent_namespace(traits, fabrics=controller.fabrics))
    if csi == wire.CSI_NVM:
        return Completion(data=bytes(wire.PAGE_BYTES))
    if csi == wire.CSI_ZNS and namespace.csi == wire.CSI_ZNS:
        return Completion(data=identify.build_zns_namespace(traits))
    return Completion(Status.INVALID_FIELD)
