"""`spdk-ftl torture` with --jobs, --scheduler or --campaign."""

from __future__ import annotations

import argparse
from typing import Any

from ..demo.screen import Screen
from ..errors import FtlError
from ..workers.options import chosen_workers
from .campaign import Campaign
from .one_world import FUNCTION
from .options import Options
from .report import Report


def run_campaign(args: argparse.Namespace, options: Options, report: Report, screen: Screen) -> int:
    """Raises FtlError with all replay commands if promises were broken; KeyboardInterrupt if the user ends it."""
    campaign = Campaign(options, report, args.campaign, function=FUNCTION)
    try:
        _say_what_there_is(campaign, screen)
        if not campaign.complete:
            _run(args, campaign, screen)
    except KeyboardInterrupt:
        screen.say(_interrupted(args, report.values))
        raise
    finally:
        campaign.close()
        if args.json:
            report.write(args.json)
    screen.console.print(report.table())
    if report.values["violations"]:
        raise FtlError(violations(report.values))
    return 0


def _run(args: argparse.Namespace, campaign: Campaign, screen: Screen) -> None:
    most = campaign.options.crashes
    with chosen_workers(args.jobs, args.scheduler) as workers, screen.phase("torture", most) as phase:
        phase.update(min(campaign.crashes, most))
        campaign.run(workers, lambda crashes, note: phase.update(min(crashes, most), note), screen.say)
        values = campaign.report.values
        phase.note = f"{values['crashes']:,} crashes, {values['blocks_verified']:,} blocks verified"


def _say_what_there_is(campaign: Campaign, screen: Screen) -> None:
    if campaign.dropped:
        screen.say(f"the campaign's file ends in a torn record, which was dropped ({campaign.dropped} bytes)")
    if campaign.finished:
        screen.say(f"{len(campaign.finished):,} worlds with {campaign.crashes:,} crashes are finished")
    if campaign.complete:
        screen.say("the campaign is finished: no world is run")
    elif campaign.lost:
        screen.say(f"{len(campaign.lost):,} worlds were given but not finished: given again")


def _interrupted(args: argparse.Namespace, values: dict[str, Any]) -> str:
    what = f"interrupted after {values['crashes']:,} crashes, {values['blocks_verified']:,} blocks verified"
    go_on = "to go on, start the same command again" if args.campaign else "without --campaign it can't be resumed"
    return "\n".join([f"{what}: {values['violations']} violations; {go_on}", *values.get("replays", ())])


def violations(values: dict[str, Any]) -> str:
    """All worlds that broke a promise, and how to replay each."""
    lines = [f"torture: {values['violations']} violations in {len(values['replays'])} worlds"]
    for each in values["found"]:
        if "replay" in each:
            where = f" at LBA {each['lba']}" if each["lba"] >= 0 else ""
            lines.append(f"{each['kind']}{where}, after crash {each['crash']} ({each['after']}): {each['detail']}")
            lines.append(f"  to replay it: {each['replay']}")
    return "\n".join(lines)
