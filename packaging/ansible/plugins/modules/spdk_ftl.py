#!/usr/bin/python
# BSD-3-Clause, see LICENSE of spdk-ftl-py
"""Ansible module: one FTL bdev, by `spdk-ftl apply` on the managed machine."""

from __future__ import annotations

DOCUMENTATION = r"""
module: spdk_ftl
short_description: An FTL bdev on a zoned bdev of an SPDK target
version_added: "0.1.0"
description:
  - Makes that an FTL is there as described, loads it where it is on its base bdev already, or takes it away.
  - Never erases anything. An FTL is created only where the base bdev holds nothing that anybody knows.
  - What can't be changed while an FTL runs (its base, its cache, overprovisioning, ...) fails, with all differences
    named, before anything is changed.
  - Runs C(spdk-ftl apply) on the managed machine, with the daemon (C(spdk-ftl serve)) that runs there.
author: spdk-ftl-py maintainers
options:
  name:
    description: Name of the FTL bdev.
    type: str
    required: true
  state:
    description:
      - V(present), it is there as described. V(absent), it is not there; its data stays on its base bdev.
    type: str
    choices: [present, absent]
    default: present
  target:
    description: RPC address of the SPDK target, the path of its socket or HOST:PORT.
    type: str
    default: /var/tmp/spdk.sock
  base:
    description: Name of the base bdev. Required with O(state=present).
    type: str
  cache:
    description: Name of the bdev of its nv cache. Not given, it has none.
    type: str
  uuid:
    description: Load the FTL of that uuid, and never create one.
    type: str
  new_uuid:
    description: The uuid that the FTL has, or gets when it is created.
    type: str
  overprovisioning:
    description: Percent of the device that is kept back. Counts at creation.
    type: int
  use_append:
    description: Zone appends instead of writes. Counts at creation.
    type: bool
  num_punits:
    description: Zones in a band. Counts at creation.
    type: int
  optimal_open_zones:
    description: Zones to keep open side by side. Counts at creation.
    type: int
  zone_capacity:
    description: Capacity of emulated zones, in blocks of 4 KiB or as a size such as V(768KiB).
    type: raw
  allow_open_bands:
    description: Load it although records are damaged.
    type: bool
  limits:
    description: Percentage of writes that are the user's, by level (crit, high, low, start).
    type: dict
  limit_thresholds:
    description: Free bands at which a level begins, by level.
    type: dict
  conf:
    description: Further configuration, as of C(bdev_ftl_create). write_buffer_size may be a size such as V(8MiB).
    type: dict
  listen:
    description: ADDRESS[:PORT] of its export (default, the daemon's).
    type: str
  nqn:
    description: NQN of its export, in which {name} and {uuid} stand for those of the FTL.
    type: str
  attach:
    description: Whether the target gets it as a bdev.
    type: bool
  transport:
    description: How the target reaches the FTL. The daemon decides if this is not given.
    type: str
    choices: [auto, tcp, vfio-user]
  secure_channel:
    description: Take hosts by TLS alone.
    type: bool
  target_psk:
    description: File with the TLS key that daemon and target share.
    type: str
  hosts:
    description:
      - All hosts that may connect beside the target, each an NQN, or a mapping with nqn and the key files dhchap_key,
        dhchap_ctrlr_key and psk. Others are removed. Not given, hosts are left alone.
    type: list
    elements: raw
  allow_any_host:
    description: Whether any host may connect. Not given, it is left as it is.
    type: bool
  wait:
    description:
      - Seconds to wait until it is online. The task fails where it is not by then. With V(0), one that has to wait (for
        its base, say) is a warning.
    type: int
    default: 0
  socket:
    description: Control socket of the daemon (default, that of C(spdk-ftl)).
    type: str
  daemon_user:
    description: Whose daemon is believed, beside one's own and root's.
    type: str
  executable:
    description: The command C(spdk-ftl).
    type: str
    default: spdk-ftl
attributes:
  check_mode:
    support: full
    description: Says what would be changed, and changes nothing.
  diff_mode:
    support: full
    description: Shows each change.
"""

EXAMPLES = r"""
- name: The FTL on the ZNS drive, for one host
  spdk_ftl.ftl.spdk_ftl:
    name: ftl0
    base: Nvme0n1
    cache: Cache0
    conf: {write_buffer_size: 8MiB, scrub_days: 7}
    hosts:
      - {nqn: "nqn.2026-11.com.example:db", dhchap_key: /etc/keys/db}
    wait: 60

- name: It is not there any more; its data stays on Nvme0n1
  spdk_ftl.ftl.spdk_ftl:
    name: ftl0
    state: absent
"""

RETURN = r"""
ftl:
  description: The FTL as C(ftl_get_devices) tells of it. Not there in check mode where it would be created.
  returned: when it is there
  type: dict
changes:
  description: What was changed, or in check mode would be, a line each.
  returned: always
  type: list
  elements: str
"""

import json
from typing import Any

from ansible.module_utils.basic import AnsibleModule

EXIT_NOT_YET = 3
ENTRY = (
    *("name", "base", "cache", "uuid", "new_uuid", "overprovisioning", "use_append", "num_punits"),
    *("optimal_open_zones", "zone_capacity", "allow_open_bands", "limits", "limit_thresholds", "conf", "listen"),
    *("nqn", "attach", "transport", "secure_channel", "target_psk", "hosts", "allow_any_host"),
)
"""Options that are keys of a plan's entry, with the same meaning."""


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "target": {"type": "str", "default": "/var/tmp/spdk.sock"},
            "base": {"type": "str"},
            "cache": {"type": "str"},
            "uuid": {"type": "str"},
            "new_uuid": {"type": "str"},
            "overprovisioning": {"type": "int"},
            "use_append": {"type": "bool"},
            "num_punits": {"type": "int"},
            "optimal_open_zones": {"type": "int"},
            "zone_capacity": {"type": "raw"},
            "allow_open_bands": {"type": "bool"},
            "limits": {"type": "dict"},
            "limit_thresholds": {"type": "dict"},
            "conf": {"type": "dict"},
            "listen": {"type": "str"},
            "nqn": {"type": "str"},
            "attach": {"type": "bool"},
            "transport": {"type": "str", "choices": ["auto", "tcp", "vfio-user"]},
            "secure_channel": {"type": "bool"},
            # Paths of key files, and not what is in them.
            "target_psk": {"type": "str", "no_log": False},
            "hosts": {"type": "list", "elements": "raw"},
            "allow_any_host": {"type": "bool"},
            "wait": {"type": "int", "default": 0},
            "socket": {"type": "str"},
            "daemon_user": {"type": "str"},
            "executable": {"type": "str", "default": "spdk-ftl"},
        },
        required_if=[("state", "present", ("base",))],
        mutually_exclusive=[("uuid", "new_uuid")],
        supports_check_mode=True,
    )
    if module.params["state"] == "absent":
        _absent(module)
    else:
        _present(module)


def _present(module: AnsibleModule) -> None:
    given = {key: module.params[key] for key in ENTRY if module.params[key] is not None}
    entry = {
        key: _plain(value) if key in ("conf", "limits", "limit_thresholds") else value for key, value in given.items()
    }
    entry["zone_capacity"] = _number(given.get("zone_capacity"))
    if entry["zone_capacity"] is None:
        del entry["zone_capacity"]
    plan = {"targets": [{"address": module.params["target"], "ftls": [entry]}]}
    how = ["--dry-run"] if module.check_mode else ["--wait", str(module.params["wait"])]
    code, out, err = _run(module, "apply", "-", "--json", *how, data=json.dumps(plan))
    if not out.strip():
        module.fail_json(msg=err.strip() or f"spdk-ftl apply exited with {code}")
    told = json.loads(out)
    steps = [step for step in told["steps"] if module.check_mode or step["done"]]
    changes = [step["text"] for step in steps]
    result: dict[str, Any] = {"changed": told["changed"], "changes": changes}
    result["diff"] = {"before": "", "after": "".join(f"{module.params['name']}: {text}\n" for text in changes)}
    for ftl in told["ftls"]:
        result["ftl"] = ftl
        if code == EXIT_NOT_YET:
            waits = f"{ftl['name']} is {ftl['state']}: {ftl.get('waiting_for') or ftl.get('error')}"
            if module.params["wait"] > 0:
                module.fail_json(msg=f"{waits} (after {module.params['wait']} s)", **result)
            module.warn(waits)
    if told["failed"]:
        module.fail_json(msg="; ".join([*told["problems"], *([told["error"]] if told["error"] else [])]), **result)
    module.exit_json(**result)


def _absent(module: AnsibleModule) -> None:
    name = module.params["name"]
    code, out, err = _run(module, "devices", "--json")
    if code != 0:
        module.fail_json(msg=err.strip())
    target = _real(module.params["target"])
    there = [each for each in json.loads(out) if each["name"] == name and each["target"] == target]
    changes = ["delete it (its data stays on the base)"] if there else []
    result: dict[str, Any] = {"changed": bool(there), "changes": changes}
    result["diff"] = {"before": f"{name}: {there[0]['state']}\n" if there else "", "after": ""}
    if there and not module.check_mode:
        code, _, err = _run(module, "delete", "-b", name, "-s", module.params["target"])
        if code != 0:
            module.fail_json(msg=err.strip(), **result)
    module.exit_json(**result)


def _real(target: str) -> str:
    """As the daemon has it."""
    import os

    return os.path.realpath(target) if "/" in target or ":" not in target else target


def _run(module: AnsibleModule, *arguments: str, data: str | None = None) -> tuple[int, str, str]:
    command = [module.params["executable"], *arguments]
    for option, value in (("--socket", module.params["socket"]), ("--daemon-user", module.params["daemon_user"])):
        if value is not None:
            command += [option, value]
    code, out, err = module.run_command(command, data=data)
    return int(code), str(out), str(err)


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    return {key: _number(value) for key, value in values.items()}


def _number(value: Any) -> Any:
    """Templates make text of numbers."""
    return int(value) if isinstance(value, str) and value.strip().isdecimal() else value


if __name__ == "__main__":
    main()
