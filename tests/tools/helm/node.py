"""One node without a kubelet: starts the pods of a rendered chart as the kubelet would, and runs a command beside them.

    node.py BINARY ROOT ADDRESSES MANIFEST... -- COMMAND...

Every container is a process of BINARY in a root of its own, with the mounts, user, group and capabilities that its
pod names; `ROOT` stands for the node's file system, `ADDRESSES` is its status.hostIPs. DaemonSets that place files
are run once; then what lies in ROOT/etc/kubernetes/manifests is started, and DaemonSets and Deployments with a server.
The command runs when all probes are good. At the end each process gets SIGTERM and has to end with 0.
Needs root and a mount namespace of its own.
"""

import base64
import os
import pathlib
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.request

import yaml

# What the image brings, and setpriv.
SYSTEM = [path for path in ("/usr", "/lib", "/lib64", "/bin", "/sbin", "/etc/ssl") if os.path.exists(path)]
LOGS = []


def fail(text):
    for log in LOGS:
        sys.stderr.write(f"--- {log.name}\n" + log.read_text()[-2000:])
    sys.exit(f"FAIL: {text}")


class Node:
    def __init__(self, binary, root, addresses, files):
        self.binary, self.root, self.addresses = binary, pathlib.Path(root), addresses
        self.scratch = pathlib.Path(tempfile.mkdtemp(dir="/mnt"))
        self.scratch.chmod(0o755)
        self.objects, self.running = {}, []
        (self.root / "etc/kubernetes/manifests").mkdir(parents=True, exist_ok=True)
        for file in files:
            for document in yaml.safe_load_all(pathlib.Path(file).read_text()):
                if document:
                    self.objects[document["kind"], document["metadata"]["name"]] = document

    def content(self, kind, name):
        found = self.objects.get((kind, name)) or fail(f"no {kind} {name}")
        data = dict(found.get("data") or {})
        if kind == "Secret":
            data = {key: base64.b64decode(value).decode() for key, value in data.items()}
            data.update(found.get("stringData") or {})
        return data

    def project(self, folder, kind, source, name, group):
        if source.get("optional") and (kind, name) not in self.objects:
            return
        data = self.content(kind, name)
        items = source.get("items") or [{"key": key, "path": key} for key in data]
        for item in items:
            path = folder / item["path"]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(data[item["key"]])
            path.chmod(0o440 if kind == "Secret" else 0o644)
            os.chown(path, 0, group)

    def volume(self, pod, volume, group):
        """The folder of a volume; groups as the kubelet gives them."""
        if "hostPath" in volume:
            path = self.root / volume["hostPath"]["path"].lstrip("/")
            if volume["hostPath"]["type"] == "DirectoryOrCreate":
                path.mkdir(parents=True, exist_ok=True)
            return path if path.is_dir() else fail(f"{pod}: no folder {path}")
        folder = self.scratch / pod / "volumes" / volume["name"]
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o2775)
        os.chown(folder, 0, group)
        if "secret" in volume:
            self.project(folder, "Secret", volume["secret"], volume["secret"]["secretName"], group)
        elif "configMap" in volume:
            self.project(folder, "ConfigMap", volume["configMap"], volume["configMap"]["name"], group)
        elif "projected" in volume:
            for source in volume["projected"]["sources"]:
                self.project(folder, "Secret", source["secret"], source["secret"]["name"], group)
        return folder

    def command(self, pod, spec, container, volumes, more):
        """The command line of a container, in a root of its own."""
        root = self.scratch / pod / container["name"]
        subprocess.run(["umount", "-R", root], check=False, stderr=subprocess.DEVNULL)
        root.mkdir(parents=True, exist_ok=True)
        subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", root], check=True)
        mounts = [(path, path, True) for path in SYSTEM + ["/proc", "/dev"]]
        for mount in container.get("volumeMounts", []):
            mounts.append((volumes[mount["name"]], mount["mountPath"], mount.get("readOnly", False)))
        for source, target, read_only in mounts:
            inside = root / target.lstrip("/")
            inside.mkdir(parents=True, exist_ok=True)
            subprocess.run(["mount", "--bind", source, inside], check=True)
            if read_only and target not in ("/proc", "/dev"):
                subprocess.run(["mount", "-o", "remount,ro,bind", inside], check=True)
        shutil.copy(self.binary, root / "d8-registry")
        subprocess.run(["mount", "-o", "remount,ro", root], check=True)
        security = container["securityContext"]
        keep = ["+" + name.lower() for name in security["capabilities"].get("add", [])]
        if security["runAsNonRoot"] == (security["runAsUser"] == 0):
            fail(f"{pod}: {container['name']} would not be started: runAsNonRoot and runAsUser")
        environment = {}
        for variable in container.get("env", []):
            field = variable.get("valueFrom", {}).get("fieldRef", {}).get("fieldPath")
            environment[variable["name"]] = self.addresses if field else variable["value"]
        arguments = container["args"] + more
        for name, value in environment.items():
            arguments = [argument.replace(f"$({name})", value) for argument in arguments]
        group = str(spec.get("securityContext", {}).get("fsGroup", security["runAsGroup"]))
        command = [shutil.which("chroot"), str(root), "/usr/bin/setpriv", f"--reuid={security['runAsUser']}"]
        command += [f"--regid={security['runAsGroup']}", f"--groups={group}", "--no-new-privs", "--inh-caps=-all"]
        command += [f"--bounding-set={','.join(['-all'] + keep)}", "/d8-registry"] + arguments
        return command, environment

    def run_pod(self, name, spec, once=False):
        group = spec.get("securityContext", {}).get("fsGroup", 0)
        volumes = {}
        for volume in spec.get("volumes", []):
            if volume["name"] not in ("kube-rbac-proxy", "api-access"):
                volumes[volume["name"]] = self.volume(name, volume, group)
        for container in spec.get("initContainers", []):
            self.to_the_end(name, *self.command(name, spec, container, volumes, []))
        for container in spec["containers"]:
            if container["name"] in ("kube-rbac-proxy", "next-image", "controller-certificate"):
                continue
            if once:
                self.to_the_end(name, *self.command(name, spec, container, volumes, ["--once"]))
                continue
            if container["args"][0] == "serve":
                self.to_the_end(name, *self.command(name, spec, container, volumes, ["--check-config"]), say=False)
            command, environment = self.command(name, spec, container, volumes, [])
            log = self.scratch / f"{name}.log"
            LOGS.append(log)
            process = subprocess.Popen(command, env=environment, stdout=log.open("w"), stderr=subprocess.STDOUT)
            self.running.append((name, process))
            for kind in ("startupProbe", "readinessProbe", "livenessProbe"):
                if kind in container:
                    self.await_probe(name, process, container, container[kind])
            print(f"{name}: {container['name']} runs as {container['securityContext']['runAsUser']}, probes are good")

    def to_the_end(self, pod, command, environment, say=True):
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        if done.returncode:
            fail(f"{pod}: {command[9:]} ended with {done.returncode}: {done.stdout}{done.stderr}")
        print(f"{pod}: {done.stdout.strip()}" if say else f"{pod}: {command[-1]} is content")

    def await_probe(self, name, process, container, probe):
        for _ in range(300):
            if process.poll() is not None:
                fail(f"{name} ended with {process.returncode}")
            try:
                self.probe(container, probe)
                return
            except OSError as error:
                last = error
                time.sleep(0.1)
        fail(f"{name}: a probe fails: {last}")

    def probe(self, container, probe):
        how = probe.get("httpGet") or probe["tcpSocket"]
        port = how["port"]
        if not isinstance(port, int):
            port = next(one["containerPort"] for one in container["ports"] if one["name"] == port)
        host = how.get("host") or self.addresses.split(",")[0]
        if "tcpSocket" in probe:
            return socket.create_connection((host, port), 2).close()
        scheme = how.get("scheme", "HTTP").lower()
        unverified = ssl._create_unverified_context()
        urllib.request.urlopen(f"{scheme}://{host}:{port}{how['path']}", timeout=2, context=unverified).close()

    def start(self):
        for name in ("d8-registry-node", "d8-registry-node-proxy-files"):
            self.run_pod(name, self.objects["DaemonSet", name]["spec"]["template"]["spec"], once=True)
        for manifest in sorted((self.root / "etc/kubernetes/manifests").glob("[!.]*.yaml")):
            pod = yaml.safe_load(manifest.read_text())
            self.run_pod("static " + pod["metadata"]["name"], pod["spec"])
        for kind, name in list(self.objects):
            if (kind, name) in [("Deployment", "d8-registry"), ("DaemonSet", "d8-registry"), ("DaemonSet", "d8-registry-node-proxy")]:
                self.run_pod(name, self.objects[kind, name]["spec"]["template"]["spec"])

    def stop(self):
        for name, process in reversed(self.running):
            process.terminate()
            if process.wait(60) != 0:
                fail(f"{name} ended with {process.returncode} on SIGTERM")


def main():
    split = sys.argv.index("--")
    binary, root, addresses, *files = sys.argv[1:split]
    node = Node(binary, root, addresses, files)
    try:
        node.start()
        status = subprocess.run(sys.argv[split + 1 :]).returncode
        if status:
            fail(f"the command ended with {status}")
        node.stop()
    finally:
        for _, process in node.running:
            if process.poll() is None:
                process.kill()


main()
