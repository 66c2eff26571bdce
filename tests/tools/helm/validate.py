"""Holds rendered documents against the schemas of Kubernetes and of the CRDs, and against the rules of this house.

    validate.py CRD-FOLDER FILE...

A document without a schema, or with a field that its schema doesn't know, is an error. Manifests inside of ConfigMaps
(static pods) are documents too.
"""

import pathlib
import sys

import jsonschema
import kubernetes_validate
import yaml

LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

# Containers that write into root's folders of the node.
ROOT = {"static-pod", "data-folder", "node-agent"}


def closed(schema):
    """The CRD's schema, with unknown fields refused as a strict API server does."""
    if isinstance(schema, list):
        return [closed(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: closed(value) for key, value in schema.items()}
    if isinstance(made.get("pattern"), str) and "(?i)" in made["pattern"]:
        # Go takes flags in the middle, Python only at the beginning.
        made["pattern"] = "(?i)" + made["pattern"].replace("(?i)", "")
    if made.pop("x-kubernetes-int-or-string", False):
        made.pop("type", None)
        made["anyOf"] = [{"type": "integer"}, {"type": "string"}]
    if "properties" in schema and isinstance(schema["properties"], dict) and "type" in schema:
        if not schema.get("x-kubernetes-preserve-unknown-fields"):
            made.setdefault("additionalProperties", False)
    return made


def read_crds(folder):
    schemas = {}
    for file in sorted(pathlib.Path(folder).glob("*.yaml")):
        for crd in yaml.load_all(file.read_text(), LOADER):
            if not crd or crd["kind"] != "CustomResourceDefinition":
                continue
            spec = crd["spec"]
            for version in spec["versions"]:
                schema = closed(version["schema"]["openAPIV3Schema"])
                if "properties" in schema:
                    schema["properties"]["metadata"] = {"type": "object"}
                name = f"{spec['group']}/{version['name']}", spec["names"]["kind"]
                schemas[name] = schema
    return schemas


def documents(text):
    for document in yaml.load_all(text, LOADER):
        if not document:
            continue
        yield document
        if document["kind"] == "ConfigMap":
            for content in document.get("data", {}).values():
                inner = yaml.load(content, LOADER) if content.startswith("apiVersion: v1\nkind: Pod") else None
                if inner:
                    yield inner


def pod_of(document):
    if document["kind"] == "Pod":
        return document["metadata"], document["spec"]
    template = document.get("spec", {}).get("template") if document["kind"] in ("DaemonSet", "Deployment") else None
    return (template["metadata"], template["spec"]) if template else None


def rules(document):
    """What the issue asks of every object, as sentences about what is wrong."""
    labels = document["metadata"].get("labels", {})
    if labels.get("heritage") != "deckhouse" or labels.get("module") != "registry":
        yield "has not the labels heritage and module"
    pod = pod_of(document)
    if not pod:
        return
    metadata, spec = pod
    anti = spec.get("affinity", {}).get("podAntiAffinity", {})
    if "requiredDuringSchedulingIgnoredDuringExecution" in anti and document["spec"].get("replicas", 1) > 1:
        yield "a cluster with one master could not run all its pods"
    if document["metadata"]["name"] == "d8-registry-node" and document["spec"].get("minReadySeconds", 0) < 25 + 35:
        yield "static pods would be replaced or removed on all nodes at once"
    if metadata["labels"].get("heritage") != "deckhouse" or metadata["labels"].get("module") != "registry":
        yield "pods have not the labels heritage and module"
    if spec.get("priorityClassName") != "system-node-critical":
        yield "is not system-node-critical"
    if spec.get("automountServiceAccountToken") is not False and document["kind"] != "Pod":
        yield "mounts a token"
    for container in spec.get("initContainers", []) + spec["containers"]:
        name, context = container["name"], container.get("securityContext", {})
        root = name in ROOT
        added = context.get("capabilities", {}).get("add", [])
        if not context.get("readOnlyRootFilesystem"):
            yield f"{name}: the root file system can be written"
        if context.get("allowPrivilegeEscalation") is not False:
            yield f"{name}: can gain privileges"
        if context.get("capabilities", {}).get("drop") != ["ALL"] or (added and not root):
            yield f"{name}: has capabilities"
        if context.get("seccompProfile") != {"type": "RuntimeDefault"}:
            yield f"{name}: no seccomp profile"
        if not root and not (context.get("runAsNonRoot") and context.get("runAsUser", 0) > 0):
            yield f"{name}: runs as root"
        if "memory" not in container.get("resources", {}).get("limits", {}):
            yield f"{name}: no memory limit"
        if name == "controller-certificate" and any(m["name"] == "api-access" for one in spec["containers"] for m in one["volumeMounts"] if one is not container):
            yield "another container has the token that writes the controller's certificate"
        if name != "controller-certificate" and name != "certificate" and any(m["name"] == "authority" for m in container.get("volumeMounts", [])):
            yield f"{name}: sees the authority's key"
        if name in ("registry", "node-proxy", "controller"):
            hand_over = 10 if name == "node-proxy" else 0
            if name != "controller" and spec.get("terminationGracePeriodSeconds") != hand_over + 25 + 15:
                yield "the grace period is not the hand-over, the drain deadline and 15 s"
            for kind in ("startupProbe", "livenessProbe", "readinessProbe"):
                for how in ("httpGet", "tcpSocket"):
                    probe = container.get(kind, {}).get(how)
                    if probe and spec.get("hostNetwork") and probe.get("host") != "127.0.0.1":
                        yield f"{name}: {kind} does not ask 127.0.0.1"
                    if probe and name == "registry" and probe.get("path") not in ("/healthz", "/readyz"):
                        yield f"{name}: {kind} does not ask the probe listener"


def main():
    crds = read_crds(sys.argv[1])
    count, wrong = 0, []
    for file in sys.argv[2:]:
        for document in documents(pathlib.Path(file).read_text()):
            count += 1
            what = f"{pathlib.Path(file).name}: {document['kind']} {document['metadata']['name']}"
            key = document["apiVersion"], document["kind"]
            try:
                if key in crds:
                    jsonschema.validate(document, crds[key])
                else:
                    kubernetes_validate.validate(document, kubernetes_validate.latest_version(), strict=True)
            except Exception as error:  # a document without a schema, too
                wrong.append(f"{what}: {getattr(error, 'message', None) or error!r}")
            wrong.extend(f"{what}: {sentence}" for sentence in rules(document))
    for line in wrong:
        print(line)
    print(f"{count} documents, {len(wrong)} faults")
    sys.exit(1 if wrong or not count else 0)


main()
