"""As much of a Kubernetes API server as `helm install`, `upgrade` and `uninstall` ask for: discovery, and objects that
are kept in memory.

    api_server.py PORT REQUEST-LOG

Server-side apply takes the place of the whole object. Nothing is validated and nothing is run; a method that is not
known here is 405, so a helm that asks for more fails.
"""

import base64
import copy
import http.server
import json
import sys
import threading
import urllib.parse
import uuid

import yaml

# group/version, resource, kind, namespaced
RESOURCES = [
    ("v1", "secrets", "Secret", True),
    ("v1", "configmaps", "ConfigMap", True),
    ("v1", "services", "Service", True),
    ("v1", "serviceaccounts", "ServiceAccount", True),
    ("v1", "namespaces", "Namespace", False),
    ("v1", "nodes", "Node", False),
    ("apps/v1", "daemonsets", "DaemonSet", True),
    ("apps/v1", "deployments", "Deployment", True),
    ("policy/v1", "poddisruptionbudgets", "PodDisruptionBudget", True),
    ("networking.k8s.io/v1", "ingresses", "Ingress", True),
    ("rbac.authorization.k8s.io/v1", "roles", "Role", True),
    ("rbac.authorization.k8s.io/v1", "rolebindings", "RoleBinding", True),
    ("rbac.authorization.k8s.io/v1", "clusterrolebindings", "ClusterRoleBinding", False),
    ("monitoring.coreos.com/v1", "podmonitors", "PodMonitor", True),
]
KINDS = {(version, resource): kind for version, resource, kind, _ in RESOURCES}
objects, lock, version = {}, threading.Lock(), 0


def fields(message):
    """(number, value) of a protobuf message of varints and length-delimited fields."""
    at = 0

    def varint():
        nonlocal at
        value = shift = 0
        while True:
            byte = message[at]
            at += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while at < len(message):
        key = varint()
        value = varint()
        if key & 7 == 2:
            value, at = message[at : at + value], at + value
        yield key >> 3, value


def read_body(text):
    """JSON or YAML; of helm's own records, which come as protobuf, a Secret's name, labels, data and type."""
    if not text.startswith(b"k8s\0"):
        return yaml.safe_load(text)
    raw = dict(fields(text[4:])).get(2, b"")
    made = {"metadata": {"labels": {}}, "data": {}}
    for number, value in fields(raw):
        if number == 1:
            for inner, content in fields(value):
                if inner == 1:
                    made["metadata"]["name"] = content.decode()
                elif inner == 3:
                    made["metadata"]["namespace"] = content.decode()
                elif inner == 11:
                    pair = dict(fields(content))
                    made["metadata"]["labels"][pair[1].decode()] = pair[2].decode()
        elif number == 2:
            pair = dict(fields(value))
            made["data"][pair[1].decode()] = base64.b64encode(pair[2]).decode()
        elif number == 3:
            made["type"] = value.decode()
    return made


def groups():
    names = sorted({group for group, *_ in RESOURCES if "/" in group})
    described = []
    for name in names:
        entry = {"groupVersion": name, "version": name.split("/")[1]}
        described.append({"name": name.split("/")[0], "versions": [entry], "preferredVersion": entry})
    return {"kind": "APIGroupList", "apiVersion": "v1", "groups": described}


def resources(group):
    verbs = ["create", "delete", "get", "list", "patch", "update", "watch"]
    found = [
        {"name": name, "singularName": kind.lower(), "namespaced": namespaced, "kind": kind, "verbs": verbs}
        for of, name, kind, namespaced in RESOURCES
        if of == group
    ]
    return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group, "resources": found}


def parts(path):
    """(group/version, namespace, resource, name) of a path, or None."""
    steps = path.strip("/").split("/")
    if steps[0] == "api":
        group, rest = steps[1], steps[2:]
    elif steps[0] == "apis" and len(steps) > 2:
        group, rest = "/".join(steps[1:3]), steps[3:]
    else:
        return None
    namespace = ""
    if len(rest) > 2 and rest[0] == "namespaces":
        namespace, rest = rest[1], rest[2:]
    if not rest or (group, rest[0]) not in KINDS or len(rest) > 2:
        return None
    return group, namespace, rest[0], rest[1] if len(rest) > 1 else ""


def stored(group, kind, wanted, before):
    """The object as a server would keep it."""
    global version
    made = copy.deepcopy(wanted)
    made.update(apiVersion=group, kind=kind)
    if kind == "Secret" and "stringData" in made:
        texts = made.pop("stringData")
        made.setdefault("data", {}).update({k: base64.b64encode(v.encode()).decode() for k, v in texts.items()})
    metadata = made["metadata"]
    old = before["metadata"] if before else {}
    for key in ("resourceVersion", "uid", "creationTimestamp"):
        metadata[key] = old.get(key, "")
    if before == made:
        return before
    version += 1
    metadata["resourceVersion"] = str(version)
    metadata["uid"] = metadata["uid"] or str(uuid.uuid4())
    metadata["creationTimestamp"] = metadata["creationTimestamp"] or "2026-01-01T00:00:00Z"
    return made


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self, status, body):
        text = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def refuse(self, status, reason, message=""):
        self.answer(
            status,
            {
                "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
                "reason": reason, "code": status, "message": message or reason,
            },
        )

    def handle_any(self):
        url = urllib.parse.urlsplit(self.path)
        length = int(self.headers.get("Content-Length") or 0)
        body = read_body(self.rfile.read(length)) if length and self.command != "DELETE" else self.rfile.read(length)
        with lock:
            with open(sys.argv[2], "a") as log:
                log.write(f"{self.command} {url.path}\n")
            self.serve(url.path, urllib.parse.parse_qs(url.query), body)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = handle_any

    def serve(self, path, query, body):
        if path == "/version":
            return self.answer(200, {"major": "1", "minor": "34", "gitVersion": "v1.34.0"})
        if path == "/api":
            return self.answer(200, {"kind": "APIVersions", "versions": ["v1"]})
        if path == "/apis":
            return self.answer(200, groups())
        if path == "/api/v1" or (path.startswith("/apis/") and path.count("/") == 3):
            return self.answer(200, resources(path.split("/", 2)[2]))
        where = parts(path)
        if not where:
            return self.refuse(404, "NotFound", path)
        group, namespace, resource, name = where
        kind = KINDS[group, resource]
        if not name:
            return self.collection(where, kind, query, body)
        before = objects.get(where)
        if self.command == "PATCH" and "apply" not in self.headers["Content-Type"]:
            return self.refuse(415, "UnsupportedMediaType", self.headers["Content-Type"])
        if self.command in ("PUT", "PATCH"):
            if query.get("dryRun"):
                return self.answer(200, stored(group, kind, body, None))
            objects[where] = stored(group, kind, body, before)
            return self.answer(200 if before else 201, objects[where])
        if not before:
            return self.refuse(404, "NotFound", f'{resource} "{name}" not found')
        if self.command == "GET":
            return self.answer(200, before)
        if self.command == "DELETE":
            return self.answer(200, objects.pop(where))
        return self.refuse(405, "MethodNotAllowed")

    def collection(self, where, kind, query, body):
        group, namespace, resource, _ = where
        if self.command == "POST":
            key = (group, namespace, resource, body["metadata"]["name"])
            if key in objects:
                return self.refuse(409, "AlreadyExists")
            objects[key] = stored(group, kind, body, None)
            return self.answer(201, objects[key])
        if self.command != "GET":
            return self.refuse(405, "MethodNotAllowed")
        wanted = [pair.split("=", 1) for pair in query.get("labelSelector", [""])[0].split(",") if "=" in pair]
        items = [
            one
            for key, one in sorted(objects.items())
            if key[0] == group and key[2] == resource and namespace in ("", key[1])
            and all(one["metadata"].get("labels", {}).get(k) == v for k, v in wanted)
        ]
        listed = {"kind": f"{kind}List", "apiVersion": group, "metadata": {"resourceVersion": str(version)}}
        return self.answer(200, {**listed, "items": items})


http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
