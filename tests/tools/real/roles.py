"""What others do in a cluster of Deckhouse, beside the registry: bashible on each node, Deckhouse, and who uses the cluster.

    roles.py API CA FOLDER BINARY

bashible: the Secret registry-bashible-config becomes containerd's files on each node of a NodeGroup (by `BINARY node-config`),
then the node's annotation says so. Deckhouse: while a pod of it is Ready, the Secret deckhouse-registry becomes the pull Secret
of namespace apps and the names of all images. Users: Deployment `app` is rolled to another version again and again, scaled, and
what a node no longer runs is removed there, so that it has to be pulled. FOLDER has a folder for each node with the file
`sleeper`, a process in the node's namespaces. The file `still` there stops the users, `no-bashible` bashible, `versions` says
how many versions there are. What is done is printed.
"""

import base64
import hashlib
import json
import pathlib
import random
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request

API, CA, FOLDER, BINARY = sys.argv[1], sys.argv[2], pathlib.Path(sys.argv[3]), sys.argv[4]
CONTEXT = ssl.create_default_context(cafile=CA)
OWN, APPS = "/api/v1/namespaces/d8-system", "/apis/apps/v1/namespaces/apps/deployments"
MERGE, STRATEGIC = "application/merge-patch+json", "application/strategic-merge-patch+json"


def ask(method, path, body=None, kind="application/json"):
    """The answer of the API server; None for what is not there."""
    request = urllib.request.Request(API + path, method=method, data=None if body is None else json.dumps(body).encode())
    request.add_header("Authorization", "Bearer deckhouse-token")
    request.add_header("Content-Type", kind)
    try:
        with urllib.request.urlopen(request, context=CONTEXT, timeout=10) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        if error.code == 404:
            return None
        raise


def secret(name):
    found = ask("GET", f"{OWN}/secrets/{name}")
    return {key: base64.b64decode(value).decode() for key, value in (found or {}).get("data", {}).items()}


def say(*words):
    print(time.strftime("%H:%M:%S"), *words, flush=True)


def on(node, *command):
    sleeper = (FOLDER / node / "sleeper").read_text().strip()
    return subprocess.run(["nsenter", "--net", "--mount", "--target", sleeper, *command], capture_output=True, text=True)


def field(text, name):
    """A top field of the document for bashible, which is written one a line."""
    for line in text.splitlines():
        if line.startswith(name + ":"):
            return line.split(":", 1)[1].split(" #")[0].strip().strip("'\"")
    return ""


class Bashible:
    def __init__(self):
        self.refused = {}

    def run(self):
        if (FOLDER / "no-bashible").exists():
            return
        wanted = secret("registry-bashible-config").get("config")
        if not wanted:
            return
        version = field(wanted, "version")
        for node in ask("GET", "/api/v1/nodes")["items"]:
            name = node["metadata"]["name"]
            if "node.deckhouse.io/group" not in node["metadata"]["labels"]:
                continue
            if node["metadata"].get("annotations", {}).get("registry.deckhouse.io/version") == version:
                continue
            (FOLDER / name / "bashible.yaml").write_text(wanted)
            done = on(name, BINARY, "node-config", "--config", str(FOLDER / name / "bashible.yaml"))
            if done.returncode:
                if self.refused.get(name) != version:
                    say("bashible can't on", name, done.stdout, done.stderr)
                    self.refused[name] = version
                continue
            patch = {"metadata": {"annotations": {"registry.deckhouse.io/version": version}}}
            ask("PATCH", f"/api/v1/nodes/{name}", patch, MERGE)
            say("bashible on", name, "has", version[:8])


class Deckhouse:
    """Renders all images anew when its registry is another one."""

    def __init__(self):
        self.hash, self.base = None, None

    @staticmethod
    def is_up():
        pods = ask("GET", "/api/v1/namespaces/d8-system/pods?labelSelector=app%3Ddeckhouse")["items"]
        return any(one["type"] == "Ready" and one["status"] == "True" for pod in pods for one in pod["status"].get("conditions", []))

    def run(self):
        if not self.is_up():
            return
        data = secret("deckhouse-registry")
        fields = {key: data.get(key, "") for key in ("address", "path", "scheme")}
        if data.get("ca"):
            fields["ca"] = data["ca"]
        login = base64.b64encode(data[".dockerconfigjson"].encode()).decode()
        fields[".dockerconfigjson"] = login
        digest = hashlib.sha256(json.dumps(fields, separators=(",", ":"), ensure_ascii=False).encode()).hexdigest()
        if digest == self.hash:
            return
        self.base = data["address"] + data["path"]
        pull = {"metadata": {"name": "deckhouse-registry"}, "type": "kubernetes.io/dockerconfigjson", "data": {".dockerconfigjson": login}}
        if ask("PATCH", "/api/v1/namespaces/apps/secrets/deckhouse-registry", pull, MERGE) is None:
            ask("POST", "/api/v1/namespaces/apps/secrets", pull)
        template = {"metadata": {"annotations": {"checksum/registry-version": digest}}}
        template["spec"] = {"containers": [{"name": "deckhouse", "image": f"{self.base}:v1.70.1"}]}
        ask("PATCH", "/apis/apps/v1/namespaces/d8-system/deployments/deckhouse", {"spec": {"template": template}}, STRATEGIC)
        self.hash = digest
        say("Deckhouse renders with", self.base)
        USERS.render()


class Users:
    def __init__(self):
        self.version, self.rolled, self.count = 1, 0, 3

    def render(self):
        image = f"{DECKHOUSE.base}/app:v{self.version}"
        pod = {"spec": {"containers": [{"name": "app", "image": image}]}}
        ask("PATCH", f"{APPS}/app", {"spec": {"replicas": self.count, "template": pod}}, STRATEGIC)

    def run(self):
        if DECKHOUSE.base is None or (FOLDER / "still").exists():
            return
        app = ask("GET", f"{APPS}/app")
        status = app.get("status", {})
        new = status.get("updatedReplicas", 0) == status.get("replicas", 0) == status.get("availableReplicas", 0) == app["spec"]["replicas"]
        if not new or status.get("observedGeneration") != app["metadata"]["generation"]:
            return
        # What nobody runs any more goes from the nodes.
        running = {container["image"] for container in app["spec"]["template"]["spec"]["containers"]}
        for sleeper in FOLDER.glob("*/sleeper"):
            node = sleeper.parent.name
            there = on(node, "ctr", "-n", "k8s.io", "images", "ls", "-q").stdout.split()
            unused = [image for image in there if "/app:" in image and image not in running]
            if unused:
                on(node, "ctr", "-n", "k8s.io", "images", "rm", *unused)
        versions = int((FOLDER / "versions").read_text())
        self.version = self.version % versions + 1
        self.count = random.randint(3, 6)
        self.rolled += 1
        self.render()
        say("rollout", self.rolled, f"v{self.version}", self.count, "pods")


DECKHOUSE, USERS, BASHIBLE = Deckhouse(), Users(), Bashible()
while True:
    for role in (BASHIBLE, DECKHOUSE, USERS):
        try:
            role.run()
        except (urllib.error.URLError, OSError, ssl.SSLError) as error:
            say(type(role).__name__, "had no answer:", error)
    time.sleep(0.3)
