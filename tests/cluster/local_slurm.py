#!/usr/bin/env python3
"""A real Slurm of several nodes on this one machine: loopback only, no systemd, no cgroups, no accounting.

local_slurm.py start [NODES]    munged, slurmctld and one slurmd for each node (default 2)
local_slurm.py stop             end every job and every process of it; --after-input: when standard input has ended
local_slurm.py status           its processes, nodes and queue; exit status 0 if all of it is up
local_slurm.py env              lines for `eval "$(…)"`, after which sbatch, squeue and scancel speak to it

Several run side by side if they differ in LOCAL_SLURM_DIR (a directory, default /tmp/local-slurm-UID) and in
LOCAL_SLURM_PORT (the controller's, default 26800; node i has the port i higher).
"""

import contextlib
import fcntl
import os
import pwd
import secrets
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

INSTALL = "apt-get install --no-install-recommends munge slurmctld slurmd slurm-client"
_PROGRAMS = ("munged", "munge", "slurmctld", "slurmd", "sbatch", "squeue", "sinfo", "scontrol", "scancel", "srun")
_PATH = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/sbin"))  # where Debian keeps the daemons
_MARK = "LOCAL_SLURM_DAEMON"  # in the environment of the daemons, and so of what they start


class ClusterError(Exception):
    """The cluster cannot be had; says why."""


def missing_programs() -> str | None:
    """One line that says what is missing and how to install it; None if nothing is."""
    missing = [name for name in _PROGRAMS if shutil.which(name, path=_PATH) is None]
    return f"Slurm is not installed ({', '.join(missing)} not found); as root: {INSTALL}" if missing else None


@dataclass(frozen=True)
class LocalSlurm:
    """One cluster.

    Args:
        directory: for all of its files.
        port: of the controller; the next ones are the nodes'.
        cpus: that each node offers, more than there are if need be.
    """

    directory: Path
    port: int = 26800
    cpus: int = 4

    @property
    def environment(self) -> dict[str, str]:
        """Environment of Slurm's commands; ranks find each other on the loopback interface."""
        return {
            "SLURM_CONF": str(self.directory / "slurm.conf"),
            "PATH": _PATH,
            "MASTER_ADDR": "127.0.0.1",
            "GLOO_SOCKET_IFNAME": "lo",
        }

    def start(self, nodes: int = 2) -> None:
        """Start what is not running and wait until all nodes are idle.

        Raises:
            ClusterError: a program is missing, or a daemon does not come up.
        """
        if problem := missing_programs():
            raise ClusterError(problem)
        with self._alone():
            if self._nodes_up() == nodes and len(self._processes()) >= nodes + 2:
                return
            self._stop()
            self._write_files(nodes)
            munge = [f"--{name}={self.directory / file}" for name, file in _MUNGE_FILES.items()]
            self._launch("munged", "--foreground", *munge)
            self._wait(lambda: self._answers("munge", "--socket", str(self.directory / "munge.socket"), "--no-input"))
            self._launch("slurmctld", "-D", "-c")
            for node in range(1, nodes + 1):
                self.start_node_daemon(node)
            self._wait(lambda: self._nodes_up() == nodes)

    def start_node_daemon(self, node: int) -> None:
        """Start the slurmd of a node."""
        self._launch("slurmd", "-D", "-c", "-N", f"node{node}")

    def start_controller(self) -> None:
        """Start the slurmctld of a cluster that was left without one; it takes up the jobs that it knew."""
        self._launch("slurmctld", "-D")
        self._wait(lambda: self._nodes_up() > 0)

    def kill_node_daemon(self, node: int) -> None:
        """End the slurmd of a node without notice; jobs on it go on."""
        self._signal(signal.SIGKILL, "slurmd", f"node{node}")

    def stop_controller(self) -> None:
        """End the slurmctld, as for maintenance: it saves what it knows, and jobs go on."""
        self._signal(signal.SIGTERM, "slurmctld")
        self._wait(lambda: "slurmctld" not in self._processes().values())

    def stop(self) -> None:
        """End every job and every process of this cluster, whatever state it is in."""
        if self.directory.exists():
            with self._alone():
                self._stop()

    def status(self) -> bool:
        """Print what is there; returns whether all of it is up."""
        processes = self._processes()
        for pid, name in sorted(processes.items()):
            print(f"{pid:>8} {name}")
        nodes = sum(name == "slurmd" for name in processes.values())
        if nodes == 0 or "slurmctld" not in processes.values():
            print("not running")
            return False
        for command in (["sinfo", "--Node", "--partition=main"], ["squeue", "--array"]):
            print(self._run(*command).stdout, end="")
        return self._nodes_up() == nodes

    def _run(self, *command: str) -> subprocess.CompletedProcess[str]:
        environment = os.environ | self.environment
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)

    def _answers(self, *command: str) -> bool:
        return self._run(*command).returncode == 0

    def _signal(self, number: signal.Signals, program: str, *words: str) -> None:
        for pid, name in self._processes().items():
            if name == program and set(words) <= set(Path(f"/proc/{pid}/cmdline").read_text().split("\0")):
                os.kill(pid, number)

    def _nodes_up(self) -> int:
        if "slurmctld" not in self._processes().values():
            return 0  # sinfo would try for long to reach one
        states = self._run("sinfo", "--noheader", "--Node", "--partition=main", "--format=%t").stdout.split()
        return sum(state in ("idle", "mix", "alloc", "comp") for state in states)

    def _launch(self, program: str, *words: str) -> None:
        """A daemon in a session of its own, marked, so that no file has to remember its number."""
        with (self.directory / f"{program}.out").open("ab") as output:
            subprocess.run(
                ["setsid", "--fork", shutil.which(program, path=_PATH) or program, *words],
                env=os.environ | self.environment | {_MARK: str(self.directory)},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                check=True,
                cwd="/",
            )

    def _wait(self, ready: Callable[[], bool], seconds: float = 60) -> None:
        end = time.monotonic() + seconds
        while not ready():
            if time.monotonic() > end:
                self._stop()
                logs = " ".join(str(path) for path in sorted(self.directory.glob("*.log")))
                raise ClusterError(f"not up after {seconds:.0f} s; see {logs} {self.directory}/*.out")
            time.sleep(0.1)

    def _stop(self) -> None:
        """Jobs first, in good order while there is somebody to order it; then whatever is left."""
        if "slurmctld" in self._processes().values():
            self._run("scancel", f"--user={_user()}")
            end = time.monotonic() + _KILL_WAIT + 5
            while self._run("squeue", "--noheader").stdout.strip() and time.monotonic() < end:
                time.sleep(0.1)
        for number, patience in ((signal.SIGTERM, 5), (signal.SIGKILL, 5)):
            end = time.monotonic() + patience
            for pid in self._processes():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
            while self._processes() and time.monotonic() < end:
                time.sleep(0.05)

    def _processes(self) -> dict[int, str]:
        """Number -> name of the daemons, of what they started, and of what runs in jobs."""
        daemon = f"{_MARK}={self.directory}".encode()
        configuration = f"SLURM_CONF={self.directory / 'slurm.conf'}".encode()
        found = {}
        for path in Path("/proc").glob("[0-9]*"):
            try:
                variables = (path / "environ").read_bytes().split(b"\0")
                name, _, rest = (path / "stat").read_text().partition("(")[2].rpartition(")")
            except OSError:  # ended meanwhile, or another user's
                continue
            in_job = configuration in variables and any(word.startswith(b"SLURM_JOB_ID=") for word in variables)
            if (daemon in variables or in_job) and rest.split()[0] not in "ZX":
                found[int(path.name)] = name
        return found

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """No other start or stop of this cluster meanwhile."""
        self.directory.mkdir(parents=True, exist_ok=True)
        with (self.directory / "lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _write_files(self, nodes: int) -> None:
        for name in ("state", *(f"spool-node{node}" for node in range(1, nodes + 1))):
            shutil.rmtree(self.directory / name, ignore_errors=True)  # jobs of before
            (self.directory / name).mkdir(mode=0o700)
        self.directory.chmod(0o755)
        key = self.directory / "munge.key"
        key.unlink(missing_ok=True)
        key.touch(mode=0o600)
        key.write_bytes(secrets.token_bytes(1024))
        (self.directory / "cgroup.conf").write_text("CgroupAutomount=no\n")
        host = os.uname().nodename
        lines = _CONFIGURATION.format(
            directory=self.directory,
            host=host,
            port=self.port,
            user=_user(),
            kill_wait=_KILL_WAIT,
            first=int(time.time()) % 60_000_000,
        ).splitlines()
        for node in range(1, nodes + 1):
            where = f"NodeHostname={host} NodeAddr=127.0.0.1 Port={self.port + node}"
            lines.append(f"NodeName=node{node} {where} CPUs={self.cpus} RealMemory={_megabytes()}")
        (self.directory / "slurm.conf").write_text("\n".join(lines) + "\n")


_KILL_WAIT = 10  # seconds from SIGTERM to SIGKILL
_MUNGE_FILES: Mapping[str, str] = {
    "key-file": "munge.key",
    "socket": "munge.socket",
    "pid-file": "munge.pid",
    "log-file": "munge.log",
    "seed-file": "munge.seed",
}
# FirstJobId grows by one a second, below MaxJobId: a number that came before would find that job's files. cred_expire
# is also the least time, in seconds, that a requeued job waits (Slurm's own default: 120). config_overrides lets nodes
# offer CPUs that are not there.
_CONFIGURATION = """\
ClusterName=local
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser={user}
SlurmdUser={user}
FirstJobId={first}
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={directory}/munge.socket,cred_expire=5
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
StateSaveLocation={directory}/state
SlurmdSpoolDir={directory}/spool-%n
SlurmctldPidFile={directory}/slurmctld.pid
SlurmdPidFile={directory}/slurmd-%n.pid
SlurmctldLogFile={directory}/slurmctld.log
SlurmdLogFile={directory}/slurmd-%n.log
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
PropagateResourceLimits=NONE
SlurmdParameters=config_overrides
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=batch_sched_delay=0,sched_interval=2,bf_interval=5
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
ReturnToService=2
KillWait={kill_wait}
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE PriorityTier=1
PartitionName=urgent Nodes=ALL MaxTime=INFINITE PriorityTier=10 PreemptMode=OFF
"""


def _user() -> str:
    return pwd.getpwuid(os.getuid()).pw_name


def _megabytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20


def main(words: list[str]) -> int:
    """Run one command; returns the exit status."""
    directory = Path(os.environ.get("LOCAL_SLURM_DIR", f"/tmp/local-slurm-{os.getuid()}")).resolve()
    cluster = LocalSlurm(directory, port=int(os.environ.get("LOCAL_SLURM_PORT", "26800")))
    try:
        match words:
            case ["start", *rest] if len(rest) < 2 and all(word.isdigit() and int(word) > 0 for word in rest):
                cluster.start(*map(int, rest))
            case ["stop"]:
                cluster.stop()
            case ["stop", "--after-input"]:
                sys.stdin.read()
                cluster.stop()
            case ["status"]:
                return 0 if cluster.status() else 1
            case ["env"]:
                print("\n".join(f"export {name}={shlex.quote(value)}" for name, value in cluster.environment.items()))
            case _:
                print(__doc__, file=sys.stderr)
                return 2
    except ClusterError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
