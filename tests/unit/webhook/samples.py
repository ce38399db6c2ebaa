"""A template and pods for the tests of the webhook."""

from __future__ import annotations

import json
from typing import Any

import yaml

from buildsvc.webhook.template import Template, parse_template

Json = dict[str, Any]

TEMPLATE = """
spec:
  runtimeClassName: buildsvc-tun
  terminationGracePeriodSeconds: 900
  securityContext: {fsGroup: 1000, seccompProfile: {type: Unconfined}}
  imagePullSecrets: [{name: pull}]
  initContainers:
    - name: buildsvc
      image: registry.example/buildsvc-sidecar:1
      restartPolicy: Always
      env:
        - {name: BUILDSVC_STORE, value: s3://builds/cache}
        - {name: BUILDSVC_CACHE_KEY, value: "{repository}/{branch}"}
      envFrom: [{secretRef: {name: buildsvc-store}}]
      volumeMounts:
        - {name: buildsvc-run, mountPath: /run/buildsvc}
        - {name: buildsvc-root, mountPath: /var/lib/buildsvc}
  volumes:
    - {name: buildsvc-run, emptyDir: {}}
    - {name: buildsvc-root, emptyDir: {sizeLimit: 20Gi}}
client:
  env: [{name: BUILDSVC_IMAGE_REGISTRY_CA, value: /etc/ca.pem}]
  volumeMounts: [{name: buildsvc-run, mountPath: /run/buildsvc}]
allow:
  cache-key: ["*"]
  fallback-key: ["*"]
  publish: [never]
  trust-domain: [forks, "team-*"]
variables: [JOB_NAME]
"""


def template(**changes: Any) -> Template:
    """Return the template above; ``changes`` replace its parts."""
    return parse_template(json.dumps({**yaml.safe_load(TEMPLATE), **changes}))


def env(**values: str) -> list[Json]:
    """Return a container's variables."""
    return [{"name": name, "value": value} for name, value in values.items()]


def pod(
    *, annotations: Json | None = None, containers: list[Json] | None = None, **spec: Any
) -> Json:
    """Return a pod that asks for the sidecar, as an API server passes it on."""
    gitlab = env(CI_PROJECT_PATH="team/app", CI_COMMIT_BRANCH="main", OTHER="x")
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "generateName": "build-",
            "namespace": "ci",
            "annotations": {"buildsvc.io/inject": "true", **(annotations or {})},
        },
        "spec": {
            "containers": containers or [{"name": "build", "image": "golang", "env": gitlab}],
            "initContainers": [{"name": "checkout", "image": "git"}],
            "terminationGracePeriodSeconds": 30,
            "volumes": [{"name": "work", "emptyDir": {}}],
            "securityContext": {},
            **spec,
        },
    }


def review(of: Json, **request: Any) -> bytes:
    """Return the question of an API server."""
    return json.dumps(
        {
            "apiVersion": "admission.k8s.io/v1",
            "kind": "AdmissionReview",
            "request": {
                "uid": "42",
                "kind": {"group": "", "version": "v1", "kind": "Pod"},
                "operation": "CREATE",
                "namespace": "ci",
                "object": of,
                **request,
            },
        }
    ).encode()
