"""`spdk-ftl serve`: the daemon as a command."""

from __future__ import annotations

import argparse
import asyncio
import gc
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ..access.users import uid_of
from ..client import SOCKET_DEFAULT, SOCKET_ENVIRONMENT
from ..errors import ParameterError
from ..runtime.logs import AUDIT, LogLevels, check_setting, log_to_stderr
from ..runtime.service_manager import ServiceManager
from ..usage import account, host_name, parsed, path, refusing, seconds, socket_path, whole
from .state import (
    STATE_ENVIRONMENT,
    default_buffer_directory,
    default_state_directory,
)

if TYPE_CHECKING:
    from .saved import SavedFtl

LISTEN_DEFAULT: Final = "127.0.0.1"
TRANSPORT_DEFAULT: Final = "tcp"
PEER_TIMEOUT_S: Final = 120.0
HALT_TIMEOUT_S: Final = 600.0

log = logging.getLogger(__name__)

_DESCRIPTION: Final = """\
Run the daemon in the foreground. It serves FTLs to one or more SPDK targets on this machine until SIGINT, SIGTERM,
SIGQUIT or SIGHUP. Then it halts every FTL cleanly. What it made in the targets stays for the next daemon, and hosts see
a pause. `spdk-ftl halt`, or --undo-on-exit, removes it from the targets.
"""
_EPILOG: Final = """\
The daemon accepts commands as soon as it has printed "spdk-ftl: ready, control socket PATH" on stdout:
  spdk-rpc --plugin spdk_ftl_py bdev_ftl_create -b ftl0 -d Nvme0n1
  spdk-ftl devices

Only the user who runs the daemon, root, and members of --socket-group can give it orders. At --monitor-socket nobody
can change anything. Only the target itself, and hosts that you allow (bdev_ftl_create --host, bdev_ftl_add_host), can
connect to an FTL's export. The target needs an NVMe/TCP transport (spdk-rpc nvmf_create_transport -t TCP): the daemon
reads and writes the target's bdevs through it.

signals: SIGHUP halts the daemon like SIGTERM, because there is no configuration to read again; under nohup it is
ignored. SIGUSR1 logs the state of every FTL; SIGUSR2 does nothing.

exit codes: 0 halted cleanly, 1 failure (the reason is on stderr), 2 wrong usage
"""


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "serve",
        help="run the daemon that serves FTLs",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--socket",
        metavar="PATH",
        type=socket_path,
        help=f"control socket (default: ${SOCKET_ENVIRONMENT}, else {SOCKET_DEFAULT})",
    )
    parser.add_argument(
        "--socket-group",
        metavar="GROUP",
        type=account,
        help="members of this group may give orders too: the control socket gets mode 0660 and that group",
    )
    parser.add_argument(
        "--monitor-socket",
        metavar="PATH",
        type=socket_path,
        help="a second socket, which answers only requests that change nothing (default: none)",
    )
    parser.add_argument(
        "--monitor-group",
        metavar="GROUP",
        type=account,
        help="members of this group may use the monitor socket, besides the user who runs the daemon and root",
    )
    parser.add_argument(
        "--metrics",
        metavar="[ADDRESS:]PORT",
        type=parsed(_http_address, without="address "),
        help=(
            "also serve Prometheus metrics at http://ADDRESS:PORT/metrics, to everyone who can reach that address "
            "(default: only on the control and monitor sockets; without ADDRESS: 127.0.0.1)"
        ),
    )
    parser.add_argument(
        "--web",
        metavar="[ADDRESS:]PORT",
        type=parsed(_http_address, without="address "),
        help=(
            "serve a web page at http://ADDRESS:PORT/ that shows the FTLs live: bands, throughput, latency, write "
            "amplification, garbage collection. Everyone who can reach that address can read it, and nobody can "
            "change anything (default: none; without ADDRESS: 127.0.0.1)"
        ),
    )
    parser.add_argument(
        "--http-name",
        metavar="HOSTNAME",
        action="append",
        default=[],
        type=host_name,
        help=(
            "accept requests for --metrics and --web under this name, too, besides addresses, localhost and this "
            "machine's host name (repeatable). The daemon refuses other names, because an attacker's web page could "
            "use one"
        ),
    )
    parser.add_argument(
        "--state-dir",
        metavar="DIR",
        type=path,
        default=default_state_directory(),
        help=f"state directory, one per daemon (default: ${STATE_ENVIRONMENT}, else %(default)s)",
    )
    parser.add_argument(
        "--config",
        metavar="FILE",
        type=path,
        help=(
            "load the FTLs of a configuration saved by spdk-ftl save-config, or by save_config of the plugin, each "
            "as soon as its target and base exist; FTLs that are in the state directory stay as they are"
        ),
    )
    parser.add_argument(
        "--listen",
        metavar="ADDRESS[:PORT]",
        type=parsed(_listen, without="listen address "),
        help=(
            "where to export FTLs over NVMe/TCP unless bdev_ftl_create says otherwise (default: "
            f"{LISTEN_DEFAULT}, a free port for each, if NVMe/TCP is needed)"
        ),
    )
    parser.add_argument(
        "--transport",
        choices=("auto", "tcp", "vfio-user"),
        default=TRANSPORT_DEFAULT,
        help=(
            "how targets reach their FTLs, and the daemon their base and cache, unless bdev_ftl_create says otherwise. "
            "vfio-user is shared memory, for targets on this machine; an FTL then has no TCP port unless somebody asks "
            "for one (--listen, --discovery, hosts). auto: vfio-user if the target can use it, else tcp (default: "
            "%(default)s)"
        ),
    )
    parser.add_argument(
        "--discovery",
        metavar="ADDRESS[:PORT]",
        type=parsed(_listen, without="listen address "),
        help=(
            "run one NVMe/TCP discovery service for all FTLs (nvme connect-all, nvme-stas). Each host sees the FTLs to "
            "which it may connect (default: none, each FTL's own port answers discovery; default port: 8009)"
        ),
    )
    parser.add_argument(
        "--nqn-template",
        metavar="NQN",
        type=parsed(_nqn_template),
        help=(
            "NQN of exports unless bdev_ftl_create says otherwise, which must contain {name} or {uuid} of the FTL, "
            "e.g. nqn.2026-11.com.example:{name} (default: nqn.2026-11.io.spdk-ftl:{uuid}). Existing exports keep "
            "their NQN"
        ),
    )
    parser.add_argument(
        "--buffer-dir",
        metavar="DIR",
        type=path,
        default=default_buffer_directory(),
        help=(
            "directory in memory for write buffers, which outlive the daemon; must belong to this user alone "
            "(default: %(default)s)"
        ),
    )
    parser.add_argument(
        "--l2p-dir",
        metavar="DIR",
        type=path,
        help=(
            "existing directory on a local drive for L2P pages of FTLs with conf l2p_dram_limit that are not in memory "
            "(default: the state directory)"
        ),
    )
    parser.add_argument(
        "--peer-timeout",
        metavar="SECONDS",
        type=seconds,
        default=PEER_TIMEOUT_S,
        help=(
            "how long to hold host I/O while a target or base bdev is away; then I/O fails until the base is back "
            "(default: %(default)g)"
        ),
    )
    parser.add_argument(
        "--halt-timeout",
        metavar="SECONDS",
        type=seconds,
        default=HALT_TIMEOUT_S,
        help=(
            "how long a halt may take. FTLs that have not written their L2P checkpoint after four fifths of it go "
            "without, and load more slowly. An FTL that is not done at the end is given up like one whose base is "
            "gone: its write buffer keeps what is not on media (default: %(default)g)"
        ),
    )
    parser.add_argument(
        "--loads",
        metavar="N",
        type=_loads,
        help=(
            "how many FTLs to load at the same time, at a start of the daemon or when bases come back; the others "
            "wait, the smallest goes first (default: 4)"
        ),
    )
    parser.add_argument(
        "--load-memory",
        metavar="MIB",
        type=whole(1, 1 << 30),
        help=(
            "how much memory loads may take together beside their L2P; a load that takes more runs alone, apart from "
            "loads after a clean halt (default: 1024)"
        ),
    )
    parser.add_argument(
        "--limit",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        help="limit on what one host may use of each FTL, instead of the default (repeatable; see docs/security.md)",
    )
    parser.add_argument(
        "--reactors",
        metavar="N",
        type=_reactors,
        help=(
            "number of threads that do the I/O of all FTLs. Each FTL gets the thread with the fewest FTLs, or several "
            "threads with conf cores (default: one for each CPU of --cpu-mask, or on which the daemon may run)"
        ),
    )
    parser.add_argument(
        "--cpu-mask",
        metavar="MASK",
        type=parsed(_cpu_mask),
        default=(),
        help=(
            "CPUs to which these threads are pinned in turn, in the form of SPDK's -m: 0x6, [1,2] or [1-2]. A polling "
            "spdk_tgt should run on other CPUs (default: threads are not pinned)"
        ),
    )
    parser.add_argument(
        "--no-target-keys",
        dest="target_keys",
        action="store_false",
        help=(
            "daemon and targets identify each other by NQN alone, without DH-HMAC-CHAP; for targets that can't read "
            "the daemon's state directory"
        ),
    )
    parser.add_argument(
        "--target-user",
        metavar="USER",
        type=account,
        help=(
            "user who may serve the RPC socket of an SPDK target, besides the user who runs the daemon and root "
            "(default: none)"
        ),
    )
    parser.add_argument(
        "--undo-on-exit",
        action="store_true",
        help=(
            "on a signal, do what `spdk-ftl halt` does: remove the FTLs from the targets, and with their bdevs "
            "everything that is built on them"
        ),
    )
    parser.add_argument("-v", "--verbose", action="store_true", help="log every step, as --log-level debug does")
    parser.add_argument(
        "--log-level",
        metavar="[SUBJECT=]LEVEL",
        type=parsed(check_setting),
        action="append",
        default=[],
        help=(
            "log messages of this level and of more severe ones: error, warning, info or debug. With SUBJECT, this "
            "holds for a part of the log, e.g. ftl.gc=debug; the log shows the subjects (repeatable; default: info; "
            "`spdk-ftl set-log-level` changes it)"
        ),
    )
    parser.add_argument(
        "--audit-log",
        metavar="FILE",
        type=path,
        help=(
            "write a line for each order to this file instead of the log: who gave the order, what it was, and how it "
            "ended (mode 0600; the file may be rotated)"
        ),
    )
    parser.set_defaults(run=run, parser=parser)


def run(args: argparse.Namespace) -> int:
    """Serves until a signal ends the daemon. Raises FtlError if it cannot start."""
    # The imports of the data path are only needed to serve, not for every --help.
    from ..nvme.target.peers import PeerLimits
    from ..runtime.reactors import Reactors
    from .control_sockets import SocketOptions
    from .load_turns import LOADS_DEFAULT, MEMORY_DEFAULT_MIB, LoadTurns
    from .serving import HttpOptions, serve

    with refusing(args.parser, "--limit"):
        PeerLimits.parse(args.limit)
    reactors = Reactors(args.reactors, args.cpu_mask)
    loads = LoadTurns(args.loads or LOADS_DEFAULT, args.load_memory or MEMORY_DEFAULT_MIB)
    levels = LogLevels.parse(args.log_level, level="debug" if args.verbose else "info")
    with refusing(args.parser, "--log-level"):
        if args.audit_log is not None and AUDIT in levels.subjects:
            raise ParameterError("the subject audit has no level if --audit-log is given: all orders go to that file")
    manager = ServiceManager(os.environ)
    given = args.socket or (Path(os.environ[SOCKET_ENVIRONMENT]) if os.environ.get(SOCKET_ENVIRONMENT) else None)
    log_to_stderr("%(levelname).1s %(name)s: %(message)s", levels)
    saved = [] if args.config is None else _saved(args.config)
    try:
        asyncio.run(
            serve(
                SocketOptions(given, args.socket_group, args.monitor_socket, args.monitor_group),
                args.state_dir,
                args.listen or LISTEN_DEFAULT,
                listens=args.listen is not None,
                transport=args.transport,
                peer_timeout_s=args.peer_timeout,
                buffer_directory=args.buffer_dir,
                l2p_directory=args.l2p_dir,
                limits=args.limit,
                target_keys=args.target_keys,
                target_user=None if args.target_user is None else _target_user(args.target_user),
                undo_on_exit=args.undo_on_exit,
                manager=manager,
                saved=saved,
                nqn_template=args.nqn_template,
                levels=levels,
                audit_log=None if args.audit_log is None else args.audit_log.absolute(),
                http=HttpOptions(args.metrics, args.http_name, args.web),
                discovery=args.discovery,
                reactors=reactors,
                loads=loads,
                halt_timeout_s=args.halt_timeout,
            )
        )
    finally:
        # serve() has frozen the task that it ran in, and with it what a failure refers to.
        gc.unfreeze()
    return 0


def _saved(path: Path) -> Sequence[SavedFtl]:
    from .config_rpcs import normal_target
    from .saved import read_file, read_section

    entries = read_file(path, safe=True, tell=log.warning)
    return read_section(entries, f"configuration {path}", normal=normal_target)


def _nqn_template(template: str) -> str:
    from .export_nqn import check_template

    return check_template(template)


def _target_user(user: str) -> int:
    try:
        return uid_of(user)
    except ParameterError as error:
        raise ParameterError(f"--target-user: {error.message}") from None


def _reactors(given: str) -> int:
    # This import brings the shim.
    from ..runtime.reactors import REACTORS_MAX

    return whole(1, REACTORS_MAX)(given)


def _loads(given: str) -> int:
    from .load_turns import LOADS_MAX

    return whole(1, LOADS_MAX)(given)


def _cpu_mask(given: str) -> Sequence[int]:
    from ..runtime.reactors import parse_cpu_mask

    return parse_cpu_mask(given)


def _http_address(address: str) -> str:
    from .http_listener import Address

    return str(Address.parse(address))


def _listen(address: str) -> str:
    # This import brings the data path.
    from .checks import split_address

    split_address(address)
    return address
