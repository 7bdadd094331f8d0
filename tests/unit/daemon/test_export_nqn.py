"""Under which NQN hosts find an FTL."""

from __future__ import annotations

from uuid import UUID

import pytest

from spdk_ftl_py.daemon.export_nqn import check_template, export_nqn
from spdk_ftl_py.errors import ExistsError, ParameterError
from unit.daemon.registry_rig import Daemon, World, create, read, write

DEVICE = UUID("b286d19a-0059-4709-abcd-9f7732b1567d")
DEFAULT = "nqn.2026-11.io.spdk-ftl:"
OURS = "nqn.2026-11.com.example:"


@pytest.mark.parametrize(
    ("template", "nqn"),
    [
        (None, f"{DEFAULT}{DEVICE}"),
        (f"{OURS}{{name}}", f"{OURS}ftl0"),
        (f"{OURS}{{uuid}}:{{name}}", f"{OURS}{DEVICE}:ftl0"),
        ("nqn.2014-08.org.nvmexpress:uuid:{uuid}", f"nqn.2014-08.org.nvmexpress:uuid:{DEVICE}"),
        (f"{OURS}x", f"{OURS}x"),
        (f"{DEFAULT}{{uuid}}", f"{DEFAULT}{DEVICE}"),
    ],
)
def test_an_nqn_is_made_of_name_and_uuid(template: str | None, nqn: str) -> None:
    assert export_nqn(template, "ftl0", DEVICE) == nqn


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (f"{OURS}{{host}}", "braces other than"),
        (f"{OURS}{{name", "braces other than"),
        (f"{OURS}{{name.__class__}}", "braces other than"),
        (f"{OURS}{{{{name}}}}", "braces other than"),
        ("nqn.2026-13.com.example:{name}", "is not of the form"),
        ("nqn.2014-08.org.nvmexpress:uuid:{name}", "no valid UUID"),
        ("nqn.2014-08.org.nvmexpress.discovery", "is not of the form"),
        (f"{OURS}{'x' * 160}{{name}}{{uuid}}", "longer than 223 bytes"),
        (f"{DEFAULT}base:{{uuid}}", "for names that the daemon chooses"),
        (f"{DEFAULT}{{name}}", "for names that the daemon chooses"),
    ],
)
def test_what_makes_no_nqn_is_refused(template: str, expected: str) -> None:
    with pytest.raises(ParameterError, match=expected):
        export_nqn(template, "n" * 63, DEVICE)
    with pytest.raises(ParameterError, match=f"{expected}|every FTL would have this NQN"):
        check_template(template)


def test_a_template_of_all_has_something_of_each() -> None:
    with pytest.raises(ParameterError, match="every FTL would have this NQN"):
        check_template(f"{OURS}ftl")
    assert check_template(f"{OURS}{{name}}") == f"{OURS}{{name}}"


async def start(here: World, template: str | None) -> Daemon:
    daemon = here.daemon(nqn_template=template)
    await daemon.registry.start()
    return daemon


async def test_an_export_keeps_its_nqn_whatever_the_template_is_later(here: World) -> None:
    daemon = await start(here, f"{OURS}{{name}}")
    made = await create(here, daemon, no_attach=False)
    export = (await daemon.device())["export"]
    assert export["subnqn"] == f"{OURS}ftl0"
    await write(here, daemon, 4)
    await daemon.halt()
    daemon = await start(here, f"{OURS}other:{{name}}")
    device = await daemon.wait_for("online")
    assert device["export"] == export
    assert await read(here, daemon, 4) == [1, 2, 3, 4]
    assert (await here.rpc("bdev_get_bdevs", name="ftl0"))[0]["uuid"] == made["uuid"]
    # What it is given counts for more; made anew, it is another.
    await daemon.call("bdev_ftl_delete", name="ftl0")
    await create(here, daemon, uuid=made["uuid"], nqn=f"{OURS}mine:{{uuid}}")
    assert (await daemon.device())["export"]["subnqn"] == f"{OURS}mine:{made['uuid']}"
    await daemon.call("bdev_ftl_delete", name="ftl0")
    await create(here, daemon, uuid=made["uuid"])
    assert (await daemon.device())["export"]["subnqn"] == f"{OURS}other:ftl0"
    await daemon.halt()


async def test_two_ftls_can_not_have_the_same_nqn(here: World) -> None:
    daemon = await start(here, None)
    await create(here, daemon, nqn=f"{OURS}one")
    with pytest.raises(ExistsError, match=f"nqn {OURS}one: FTL bdev ftl0"):
        await create(here, daemon, "ftl1", base_bdev="Late", zone_capacity=192, nqn=f"{OURS}one")
    with pytest.raises(ParameterError, match="braces"):
        await create(here, daemon, "ftl1", base_bdev="Late", zone_capacity=192, nqn=f"{OURS}{{x}}")
    assert len(await daemon.call("ftl_get_devices")) == 1
    asked = {"if_absent": True, "nqn": f"{OURS}one"}
    assert (await create(here, daemon, **asked))["changed"] is False
    with pytest.raises(ExistsError, match=f'nqn is "{OURS}one", requested: "{OURS}ftl0"'):
        await create(here, daemon, **asked | {"nqn": f"{OURS}{{name}}"})
    await daemon.halt()


async def test_what_was_found_on_the_base_has_its_own_uuid_in_its_nqn(here: World) -> None:
    daemon = await start(here, f"{OURS}{{uuid}}")
    made = await create(here, daemon)
    await daemon.call("bdev_ftl_delete", name="ftl0")
    await create(here, daemon, load_or_create=True)
    assert (await daemon.device())["export"]["subnqn"] == f"{OURS}{made['uuid']}"
    await daemon.halt()


async def test_a_saved_configuration_keeps_it(here: World) -> None:
    daemon = await start(here, None)
    await create(here, daemon, no_attach=False, nqn=f"{OURS}{{name}}")
    export = (await daemon.device())["export"]
    saved = await daemon.call("ftl_save_config", target=here.line.path)
    (section,) = [each for each in saved["subsystems"] if each["subsystem"] == "ftl"]
    assert section["config"][0]["params"]["nqn"] == f"{OURS}ftl0"
    assert f"{OURS}ftl0" not in str([each for each in saved["subsystems"] if each is not section])
    await daemon.call("bdev_ftl_delete", name="ftl0")
    await daemon.call("ftl_load_config", config=section["config"])
    assert (await daemon.wait_for("online"))["export"] == export
    await daemon.halt()
