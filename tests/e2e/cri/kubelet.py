"""What a kubelet asks of the container runtime to run a pod with one container, and to end it.

    kubelet.py RUNTIME-SOCKET SOCKET

Stays, for loading gRPC takes longer than starting a pod. Every connection to SOCKET sends one line, `run NAME PORT`,
`stop NAME`, `remove NAME`, `ip NAME`, `netns NAME`, `networks` or `ready`, and is answered with `ok TEXT` or `error TEXT`.
"""

import json
import socketserver
import sys

import grpc

import cri_pb2 as cri
import cri_pb2_grpc

IMAGE = "docker.io/library/peer:1"


class Kubelet:
    """Pods by name, on one connection to the runtime."""

    def __init__(self, socket):
        self.runtime = cri_pb2_grpc.RuntimeServiceStub(grpc.insecure_channel(f"unix://{socket}"))
        self.pods = {}

    def ready(self):
        """The conditions that do not hold; a kubelet waits until there are none."""
        conditions = self.runtime.Status(cri.StatusRequest()).status.conditions
        missing = [f"{c.type}: {c.message}" for c in conditions if not c.status]
        if missing:
            raise RuntimeError("; ".join(missing))
        return "ready"

    def networks(self):
        """The network configuration that the runtime has read, on one line."""
        return json.dumps(self.runtime.Status(cri.StatusRequest(verbose=True)).info.get("cniconfig", ""))

    def run(self, name, port):
        protocols = (cri.TCP, cri.UDP)
        ports = [cri.PortMapping(protocol=p, container_port=80, host_port=int(port)) for p in protocols]
        config = cri.PodSandboxConfig(
            metadata=cri.PodSandboxMetadata(name=name, uid=f"uid-{name}", namespace="e2e"),
            hostname=name,
            log_directory=f"/run/pods/{name}",
            port_mappings=ports,
            linux=cri.LinuxPodSandboxConfig(cgroup_parent="/cni-e2e"),
        )
        pod = self.runtime.RunPodSandbox(cri.RunPodSandboxRequest(config=config)).pod_sandbox_id
        self.pods[name] = pod
        container = cri.ContainerConfig(
            metadata=cri.ContainerMetadata(name="peer"),
            image=cri.ImageSpec(image=IMAGE),
            command=["/bin/peer", "serve", name, "80"],
        )
        request = cri.CreateContainerRequest(pod_sandbox_id=pod, config=container, sandbox_config=config)
        created = self.runtime.CreateContainer(request).container_id
        self.runtime.StartContainer(cri.StartContainerRequest(container_id=created))
        return pod

    def stop(self, name):
        self.runtime.StopPodSandbox(cri.StopPodSandboxRequest(pod_sandbox_id=self.pods[name]))
        return name

    def remove(self, name):
        self.runtime.RemovePodSandbox(cri.RemovePodSandboxRequest(pod_sandbox_id=self.pods.pop(name)))
        return name

    def status(self, name, verbose=False):
        return self.runtime.PodSandboxStatus(
            cri.PodSandboxStatusRequest(pod_sandbox_id=self.pods[name], verbose=verbose)
        )

    def ip(self, name):
        network = self.status(name).status.network
        return " ".join([network.ip] + [other.ip for other in network.additional_ips])

    def netns(self, name):
        spec = json.loads(self.status(name, verbose=True).info["info"])["runtimeSpec"]
        return next(n["path"] for n in spec["linux"]["namespaces"] if n["type"] == "network")


class Request(socketserver.StreamRequestHandler):
    """One connection, one request."""

    def handle(self):
        verb, *words = self.rfile.readline().decode().split()
        try:
            text = f"ok {getattr(self.server.kubelet, verb)(*words)}"
        except grpc.RpcError as error:
            text = f"error {error.details()}"
        except Exception as error:  # noqa: BLE001 - whatever it is, whoever asked has to hear of it
            text = f"error {error!r}"
        self.wfile.write(text.encode())


class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """Answers several at a time, as a burst needs."""

    daemon_threads = True
    request_queue_size = 64


def main():
    with Server(sys.argv[2], Request) as server:
        server.kubelet = Kubelet(sys.argv[1])
        server.serve_forever()


if __name__ == "__main__":
    main()
