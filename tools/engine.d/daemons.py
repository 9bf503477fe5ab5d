"""A private dockerd with a containerd of its own, and further ones that play the node that pulls.

Nothing is shared with a system Docker: data, sockets, containerd, bridge and firewall rules are ours. dockerd would use
a system containerd when it finds one, so ours is started by hand and named to it. It is told to leave iptables alone,
because every dockerd that manages iptables empties the chains it has in common with the others; two rules of ours give
the bridge its way out.
"""

from __future__ import annotations

import ipaddress
import json
import os
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import processes
from core import ENGINE, TAG, Cannot, EngineError, State, folder, run, run_folder, say, write_atomically
from packages import PROGRAM_FOLDERS, program

OLDEST_DOCKER = 25  # the containerd image store came to dockerd's configuration before; 28.5 is what we measure with
BRIDGE = f"lk{TAG}"  # an interface's name may have 15 characters


def environment() -> dict[str, str]:
    """What a daemon gets: the machine's variables (proxies, CA bundle), and PATH with sbin for runc and iptables."""
    return {**os.environ, "PATH": os.pathsep.join([*PROGRAM_FOLDERS, os.environ.get("PATH", "")])}


def answers(host: str, client: str = "/usr/bin/docker") -> bool:
    env = {**os.environ, "DOCKER_HOST": host, "DOCKER_CONFIG": str(folder("docker-config"))}
    return run([client, "version", "--format", "{{.Server.Version}}"], env=env, check=False, timeout=20).returncode == 0


@dataclass(frozen=True)
class Daemon:
    """One dockerd and its containerd. `name` is "builder", "containerd" or "classic".

    With `certificates` it is also spoken to over TLS, by who has one of the same authority: a folder of ca.pem,
    server-cert.pem and server-key.pem.
    """

    name: str
    containerd_store: bool
    bridged: bool
    certificates: Path | None = None

    @property
    def sockets(self) -> Path:
        return run_folder() / {"builder": "b", "containerd": "n", "classic": "c"}[self.name]

    @property
    def socket(self) -> Path:
        return self.sockets / "docker.sock"

    @property
    def containerd_socket(self) -> Path:
        return self.sockets / "containerd.sock"

    @property
    def host(self) -> str:
        return f"unix://{self.socket}"

    @property
    def data(self) -> Path:
        return ENGINE / "data" / self.name

    def secure_host(self, state: State) -> str:
        """Its address over TLS; "" where it was started without."""
        port = state.get(f"tls-port-{self.name}")
        return f"tcp://127.0.0.1:{port}" if port else ""

    def is_up(self, state: State) -> bool:
        return processes.pid_of(state, f"dockerd-{self.name}") is not None and accepts(self.socket)

    def start(self, state: State) -> None:
        """Start what is not running of the two; wait until dockerd answers."""
        containerd, dockerd = f"containerd-{self.name}", f"dockerd-{self.name}"
        self.data.mkdir(parents=True, exist_ok=True)
        self.sockets.mkdir(parents=True, exist_ok=True)
        if processes.pid_of(state, containerd) is None:
            processes.stop(state, dockerd)  # it does not survive the loss of its containerd
            self.end_shims()
            config = self.sockets / "containerd.toml"
            write_atomically(config, self.containerd_config())
            processes.start(
                state, containerd, [program("containerd") or "containerd", "--config", config], environment()
            )
            processes.wait_until(state, containerd, lambda: accepts(self.containerd_socket))
        if processes.pid_of(state, dockerd) is None:
            if self.bridged:
                make_bridge(state)
            # dockerd refuses to start when its pidfile names a pid that lives, and after a reboot any pid may.
            (self.sockets / "docker.pid").unlink(missing_ok=True)
            config = self.sockets / "dockerd.json"
            state.set(**{f"tls-port-{self.name}": free_port() if self.certificates else None})
            write_atomically(config, json.dumps(self.dockerd_config(self.secure_host(state)), indent=2))
            processes.start(state, dockerd, [program("dockerd") or "dockerd", "--config-file", config], environment())
        processes.wait_until(state, dockerd, lambda: accepts(self.socket) and answers(self.host))

    def stop(self, state: State) -> bool:
        """End both, their containers, and what they left mounted."""
        was_up = processes.stop(state, f"dockerd-{self.name}")
        self.end_shims()
        was_up |= processes.stop(state, f"containerd-{self.name}")
        if self.bridged:
            remove_bridge(state)
        unmount_under(self.data)
        unmount_under(self.sockets)
        return was_up

    def end_shims(self) -> None:
        """End containers that outlived a killed dockerd; their shims name our containerd's socket."""
        for shim in processes.with_argument("containerd-shim", str(self.containerd_socket)):
            processes.end([*processes.children_of(shim), shim], patience=2)

    def containerd_config(self) -> str:
        quote = json.dumps  # a TOML basic string is a JSON string
        # Version 2 of the format is read by containerd 1.6 to 2.x. CRI and NRI would open sockets for all to see.
        return "\n".join(
            [
                "version = 2",
                f"root = {quote(str(self.data / 'containerd'))}",
                f"state = {quote(str(self.sockets / 'containerd'))}",
                'disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.cri.v1.images",'
                ' "io.containerd.cri.v1.runtime", "io.containerd.nri.v1.nri"]',
                f"[grpc]\naddress = {quote(str(self.containerd_socket))}",
                f"[ttrpc]\naddress = {quote(str(self.containerd_socket) + '.ttrpc')}",
                f'[plugins."io.containerd.internal.v1.opt"]\npath = {quote(str(self.data / "opt"))}',
                "",
            ]
        )

    def dockerd_config(self, secure_host: str) -> dict[str, object]:
        config: dict[str, object] = {
            "hosts": [host for host in (self.host, secure_host) if host],
            # The person who called through sudo may use the socket.
            "group": os.environ.get("SUDO_GID", str(os.getgid())),
            "data-root": str(self.data / "docker"),
            "exec-root": str(self.sockets / "exec"),
            "pidfile": str(self.sockets / "docker.pid"),
            "containerd": str(self.containerd_socket),
            "features": {"containerd-snapshotter": self.containerd_store},
            "iptables": False,
            "ip6tables": False,
            "bridge": BRIDGE if self.bridged else "none",
            "log-level": "warn",
        }
        if not self.containerd_store:
            config["storage-driver"] = "overlay2"
        if self.bridged:
            config["mtu"] = default_route()[1]
        if self.certificates is not None:
            config["tlsverify"] = True
            for option, file in (("tlscacert", "ca"), ("tlscert", "server-cert"), ("tlskey", "server-key")):
                config[option] = str(self.certificates / f"{file}.pem")
        return config


BUILDER = Daemon("builder", containerd_store=True, bridged=True)
NODES: Mapping[str, Daemon] = {
    "containerd": Daemon("containerd", containerd_store=True, bridged=False),
    "classic": Daemon("classic", containerd_store=False, bridged=False),
}


def check_version() -> None:
    """Refuse a dockerd that is installed already but too old; replacing it would touch the system's Docker."""
    text = run([program("dockerd") or "dockerd", "--version"], check=False).stdout
    match = re.search(r"version v?(\d+)\.", text)
    if match is None or int(match[1]) < OLDEST_DOCKER:
        raise Cannot(f"the Docker installed here is too old ({text.strip()}): upgrade it to {OLDEST_DOCKER} or newer")


def accepts(path: Path) -> bool:
    """True when something listens on a unix socket."""
    with socket.socket(socket.AF_UNIX) as client:
        try:
            client.connect(str(path))
        except OSError:
            return False
    return True


def free_port() -> int:
    """A TCP port of the loopback that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def default_route() -> tuple[str, int]:
    """(interface, MTU in bytes) of the way out: a bridge with a larger MTU loses big packets on some networks."""
    for line in Path("/proc/net/route").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[1] == "00000000":
            return fields[0], int(Path(f"/sys/class/net/{fields[0]}/mtu").read_text())
    return "", 1500


def free_subnet() -> ipaddress.IPv4Network:
    """A private /24 that no route of this machine meets."""
    taken = []
    for line in Path("/proc/net/route").read_text().splitlines()[1:]:
        fields = line.split()
        address, mask = (ipaddress.IPv4Address(bytes.fromhex(fields[index])[::-1]) for index in (1, 7))
        if int(mask):
            taken.append(ipaddress.ip_network(f"{address}/{mask}", strict=False))
    start = int(TAG, 16)
    for offset in range(256):
        subnet = ipaddress.IPv4Network((0xAC1F0000 | ((start + offset) % 256) << 8, 24))  # 172.31.0.0/16
        if not any(subnet.overlaps(other) for other in taken):
            return subnet
    raise EngineError("no free network among 172.31.0.0/16 for the containers' bridge")


def firewall_rules(subnet: str) -> list[list[str]]:
    """Containers may go out and get answers, their addresses hidden behind the machine's."""
    mark = ["-m", "comment", "--comment", f"layerkit-{TAG}"]
    return [
        ["-t", "nat", "POSTROUTING", "-s", subnet, "!", "-o", BRIDGE, *mark, "-j", "MASQUERADE"],
        ["-t", "filter", "FORWARD", "-i", BRIDGE, *mark, "-j", "ACCEPT"],
        ["-t", "filter", "FORWARD", "-o", BRIDGE, *mark, "-j", "ACCEPT"],
    ]


def iptables(action: str, rule: list[str]) -> bool:
    return run(["/usr/sbin/iptables", "-w", *rule[:2], action, *rule[2:]], check=False).returncode == 0


def make_bridge(state: State) -> None:
    """The bridge and its rules, whatever of them is not there (all of it after a reboot)."""
    ip = program("ip") or "ip"
    bridge = Path("/sys/class/net") / BRIDGE
    if not bridge.exists():
        subnet = free_subnet()
        state.set(subnet=str(subnet))
        run([ip, "link", "add", "name", BRIDGE, "type", "bridge"])
        run([ip, "addr", "add", f"{subnet[1]}/24", "dev", BRIDGE])
    run([ip, "link", "set", BRIDGE, "up"])
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1\n")
    for rule in firewall_rules(state.get("subnet")):
        if not iptables("-C", rule) and not iptables("-I", rule):
            say("warning: iptables refuses our rule; RUN steps will have no network")
            return


def remove_bridge(state: State) -> None:
    if state.get("subnet"):
        for rule in firewall_rules(state.get("subnet")):
            while iptables("-D", rule):
                pass
    if (Path("/sys/class/net") / BRIDGE).exists():
        run([program("ip") or "ip", "link", "delete", BRIDGE], check=False)
    state.set(subnet=None)


def unmount_under(path: Path) -> None:
    """Detach every mount below a folder, innermost first."""
    points = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    points = [re.sub(r"\\(\d{3})", lambda octal: chr(int(octal[1], 8)), point) for point in points]
    for point in reversed(points):
        if Path(point).is_relative_to(path):
            run(["umount", "--lazy", point], check=False)
