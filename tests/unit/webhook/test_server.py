"""The webhook as an API server and a kubelet meet it, its command line, and its template's file."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml

from buildsvc.errors import ConfigError, EnvironmentUnfit
from buildsvc.webhook import command, run
from buildsvc.webhook.run import Webhook
from buildsvc.webhook.server import LARGEST_REVIEW, bound
from buildsvc.webhook.settings import Settings, load_settings
from buildsvc.webhook.template import TemplateFile, parse_template
from tests.unit.webhook.apiserver import ApiServer, connected
from tests.unit.webhook.samples import TEMPLATE, Json, pod, review

_sleep = asyncio.sleep

FLAGS = {"namespace": "ci", "host": "localhost", "drain": "0s"}


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    (tmp_path / "pod.yaml").write_text(TEMPLATE)
    return load_settings({**FLAGS, "template": str(tmp_path / "pod.yaml")}, {})


class Served:
    """A webhook that is served, and how to reach it."""

    def __init__(self, client: aiohttp.ClientSession, ports: tuple[int, int]) -> None:
        self.client = client
        self.reviews = f"https://localhost:{ports[0]}/inject"
        self.pages = f"http://127.0.0.1:{ports[1]}"
        self.stop = asyncio.Event()
        self.ended = asyncio.Event()
        self.tls: ssl.SSLContext | bool = True

    async def ask(self, body: bytes) -> Json:
        async with self.client.post(self.reviews, data=body, ssl=self.tls) as answer:
            assert answer.status == 200, await answer.text()
            response: Json = (await answer.json())["response"]
            return response

    async def page(self, path: str) -> tuple[int, str]:
        async with self.client.get(self.pages + path) as answer:
            return answer.status, await answer.text()

    async def ready(self, *, is_it: bool = True) -> None:
        while ((await self.page("/readyz"))[0] == 200) != is_it:
            await _sleep(0.01)


@asynccontextmanager
async def serving(settings: Settings, server: ApiServer) -> AsyncIterator[Served]:
    """Serve a webhook whose certificates the test trusts as the configuration says."""
    with bound("127.0.0.1", 0) as reviews, bound("127.0.0.1", 0) as pages:
        # Whoever asks for a page now is answered when it is served.
        pages.listen()
        async with connected(server) as cluster, aiohttp.ClientSession() as client:
            served = Served(client, (reviews.getsockname()[1], pages.getsockname()[1]))
            task = asyncio.create_task(
                Webhook(settings, cluster).serve(reviews, pages, served.stop)
            )
            try:
                yield served
            finally:
                served.stop.set()
                await task


def trusting(server: ApiServer) -> ssl.SSLContext:
    [webhook] = server.configuration["webhooks"]
    bundle = base64.b64decode(webhook["clientConfig"]["caBundle"])
    return ssl.create_default_context(cadata=bundle.decode())


@pytest.fixture
def server() -> ApiServer:
    made = ApiServer()
    made.install()
    return made


async def test_two_hundred_pods_at_once(settings: Settings, server: ApiServer) -> None:
    async with serving(settings, server) as served:
        await served.ready()
        served.tls = trusting(server)
        answers = await asyncio.gather(*(served.ask(review(pod())) for _ in range(200)))
        assert all(one["allowed"] and one["patch"] for one in answers)
        _, metrics = await served.page("/metrics")
        assert 'buildsvc_webhook_reviews_total{outcome="injected"} 200.0' in metrics
        assert 'buildsvc_webhook_reviews_total{outcome="refused"} 0.0' in metrics
        assert "buildsvc_webhook_review_seconds_count 200.0" in metrics
        assert "buildsvc_webhook_certificate_changes_total 1.0" in metrics


async def test_whatever_comes_no_pod_is_stopped(settings: Settings, server: ApiServer) -> None:
    async with serving(settings, server) as served:
        await served.ready()
        served.tls = trusting(server)
        plain = pod()
        del plain["metadata"]["annotations"]
        assert await served.ask(review(plain)) == {"uid": "42", "allowed": True}
        assert await served.ask(review(pod(), operation="UPDATE")) == {"uid": "42", "allowed": True}
        refused = await served.ask(review(pod(hostNetwork=True)))
        assert (refused["allowed"], "patch" in refused) == (True, False)
        assert "hostNetwork" in refused["warnings"][0]
        # A defect of ours.
        broken: Any = pod()
        broken["spec"] = None
        failed = await served.ask(review(broken))
        assert (failed["allowed"], "patch" in failed) == (True, False)
        assert "the webhook failed" in failed["warnings"][0]
        for body, status in ((b"{", 400), (b"x" * (LARGEST_REVIEW + 1), 413)):
            data = io.BytesIO(body)
            async with served.client.post(served.reviews, data=data, ssl=served.tls) as answer:
                assert answer.status == status
        assert 'outcome="failed"} 1.0' in (await served.page("/metrics"))[1]


async def test_it_is_not_ready_before_it_is_trusted(settings: Settings, server: ApiServer) -> None:
    objects = dict(server.objects)
    server.objects.clear()
    async with serving(settings, server) as served:
        assert await served.page("/healthz") == (200, "ok\n")
        status, text = await served.page("/readyz")
        assert status == 503
        assert json.loads(text)["reason"]
        server.objects.update(objects)


async def test_answers_under_way_are_finished_in_the_end(
    settings: Settings, server: ApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(settings, server) as served:
        await served.ready()
        served.tls = trusting(server)
        begun, goes_on = asyncio.Event(), asyncio.Event()

        async def slowly(*_arguments: object) -> tuple[str, Json]:
            begun.set()
            await goes_on.wait()
            return "injected", {"response": {"late": True}}

        monkeypatch.setattr("buildsvc.webhook.server.asyncio.to_thread", slowly)
        asked = asyncio.create_task(served.ask(review(pod())))
        await begun.wait()
        served.stop.set()
        await asyncio.sleep(0)
        goes_on.set()
        assert await asked == {"late": True}


async def test_who_is_sent_here_while_it_ends_gets_an_answer_and_goes(
    settings: Settings, server: ApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    drained = asyncio.Event()
    webhooks: list[Webhook] = []
    making = run.Webhook.__init__

    def made(self: Webhook, *arguments: Any) -> None:
        making(self, *arguments)
        webhooks.append(self)

    monkeypatch.setattr(Webhook, "__init__", made)
    async with serving(settings, server) as served:
        await served.ready()
        served.tls = trusting(server)
        monkeypatch.setattr(webhooks[0], "_drain", 60.0)

        async def sleep(seconds: float) -> None:
            await (drained.wait() if seconds == 60.0 else _sleep(seconds))

        monkeypatch.setattr("buildsvc.webhook.run.asyncio.sleep", sleep)
        served.stop.set()
        await served.ready(is_it=False)
        async with served.client.post(served.reviews, data=review(pod()), ssl=served.tls) as answer:
            assert answer.status == 200
            assert answer.headers["Connection"] == "close"
        drained.set()


async def test_it_ends_at_once_when_it_never_began(settings: Settings, server: ApiServer) -> None:
    server.refuse = lambda _method, _path: 500
    async with serving(settings, server) as served:
        assert (await served.page("/readyz"))[0] == 503


def test_an_address_that_is_taken() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as other,
        pytest.raises(EnvironmentUnfit, match="cannot listen"),
    ):
        bound("127.0.0.1", other.getsockname()[1])


def test_the_template_is_read_again_when_it_changes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "pod.yaml"
    file = TemplateFile(path)
    with pytest.raises(ConfigError, match="No such file"):
        file.current()
    path.write_text(TEMPLATE)
    first = file.current()
    assert file.current() is first
    # As the kubelet does it: another file under the same name.
    (tmp_path / "new").write_text(TEMPLATE.replace("900", "901"))
    (tmp_path / "new").replace(path)
    second = file.current()
    assert second.spec["terminationGracePeriodSeconds"] == 901
    assert second.digest != first.digest
    path.write_text("spec: [")
    caplog.clear()
    assert file.current() is second
    assert file.current() is second
    assert [record.message for record in caplog.records] == [
        "the new injection template cannot be used"
    ]
    path.unlink()
    assert file.current() is second


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"spec": {}}, "expected one container"),
        ({"spec": {"initContainers": [{"name": "x"}]}}, "restartPolicy: Always"),
        ({"spec": {"containers": []}}, "has no containers"),
        ({"spec": 1}, "expected a mapping"),
        ({"more": 1}, "has no more"),
        ({"allow": {"image": ["*"]}}, "has no image"),
        ({"allow": {"cache-key": "*"}}, "expected a list of texts"),
        ({"variables": [1]}, "expected a list of texts"),
        ({"client": {"env": [{"value": "1"}]}}, "each with a name"),
    ],
)
def test_templates_that_are_wrong(change: Json, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        parse_template(yaml.safe_dump({**yaml.safe_load(TEMPLATE), **change}))


def test_comments_do_not_change_a_template() -> None:
    assert parse_template(f"# x\n{TEMPLATE}").digest == parse_template(TEMPLATE).digest


def test_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = load_settings(
        {"listen": "[::]:1"},
        {
            "BUILDSVC_WEBHOOK_HOST": "a.example, 192.0.2.1",
            "BUILDSVC_WEBHOOK_CERTIFICATE_LIFETIME": "1d",
            "BUILDSVC_WEBHOOK_NAMESPACE": "ci",
            # What Kubernetes makes of a service called buildsvc-webhook.
            "BUILDSVC_WEBHOOK_SERVICE_HOST": "10.0.0.1",
            "BUILDSVC_WEBHOOK_PORT_443_TCP": "tcp://10.0.0.1:443",
        },
    )
    assert found.listen == ("::", 1)
    assert found.names == ("buildsvc-webhook.ci.svc", "a.example", "192.0.2.1")
    assert found.lifetime.total_seconds() == 86400
    (tmp_path / "namespace").write_text("own\n")
    monkeypatch.setattr("buildsvc.webhook.settings._NAMESPACE", tmp_path / "namespace")
    assert load_settings({}, {}).own_namespace == "own"
    (tmp_path / "namespace").unlink()
    with pytest.raises(ConfigError, match="--namespace"):
        _ = load_settings({}, {}).own_namespace
    with pytest.raises(ConfigError, match=r"(?s)BUILDSVC_WEBHOOK_SECRTE: no such.*--listen: "):
        load_settings({"listen": "x"}, {"BUILDSVC_WEBHOOK_SECRTE": "x"})


def rendered(tmp_path: Path, document: Json, capsys: pytest.CaptureFixture[str]) -> list[Any]:
    (tmp_path / "pod.yaml").write_text(TEMPLATE)
    (tmp_path / "manifest.yaml").write_text(yaml.safe_dump(document))
    argv = ["render", "--template", str(tmp_path / "pod.yaml"), str(tmp_path / "manifest.yaml")]
    assert command.main(argv) == 0
    return list(yaml.safe_load_all(capsys.readouterr().out))


def test_render(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    [made] = rendered(tmp_path, pod(), capsys)
    assert made["spec"]["initContainers"][0]["name"] == "buildsvc"
    job = {"kind": "CronJob", "spec": {"jobTemplate": {"spec": {"template": pod()}}, "x": 1}}
    [made] = rendered(tmp_path, job, capsys)
    inner = made["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    assert inner["initContainers"][0]["name"] == "buildsvc"


@pytest.mark.parametrize(
    ("manifest", "code", "words"),
    [
        (pod(hostNetwork=True), 65, "hostNetwork"),
        ({"kind": "Service"}, 65, "found: Service"),
        ("[", 78, "no YAML"),
        ("- 1", 78, "expected an object"),
        (None, 66, "cannot be read"),
    ],
)
def test_render_says_what_is_wrong(
    manifest: Any, code: int, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "pod.yaml").write_text(TEMPLATE)
    file = tmp_path / "manifest.yaml"
    if manifest is not None:
        file.write_text(manifest if isinstance(manifest, str) else yaml.safe_dump(manifest))
    argv = ["render", "--template", str(tmp_path / "pod.yaml"), str(file)]
    assert command.main(argv) == code
    assert words in capsys.readouterr().err


def test_outside_of_a_cluster(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    (tmp_path / "pod.yaml").write_text(TEMPLATE)
    argv = ["--namespace=ci", "--listen=127.0.0.1:0", "--http-listen=127.0.0.1:0"]
    assert command.main(argv) == EnvironmentUnfit.exit_code
    assert "service account" in capsys.readouterr().err
