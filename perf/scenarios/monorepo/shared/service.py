"""What the Python services of the shop have in common: settings, health, and a check."""

import sys
from collections.abc import Callable

import requests
from flask import Flask
from pydantic import BaseModel


class Settings(BaseModel):
    """Where the other services are."""

    gateway: str = "http://gateway:8080"
    timeout_seconds: float = 5.0


def create(name: str) -> Flask:
    """Return an application that says that it is well."""
    app = Flask(name)
    app.get("/health")(lambda: {"service": name})
    return app


def ask(settings: Settings, path: str) -> list[dict[str, str]]:
    """Return what another service answers. Raises requests.RequestException."""
    answer = requests.get(f"{settings.gateway}/{path}", timeout=settings.timeout_seconds)
    answer.raise_for_status()
    return [{str(key): str(value) for key, value in entry.items()} for entry in answer.json()]


def main(app: Flask, path: str, prepare: Callable[[], object] = lambda: None) -> None:
    """With --check: ask the one path, print a line and end; else serve for development."""
    prepare()
    if "--check" not in sys.argv:
        app.run(port=8080)
        return
    answer = app.test_client().get(path)
    if answer.status_code != 200:
        sys.exit(f"{app.name}: GET {path}: {answer.status}")
    print(f"{app.name} {answer.get_data(as_text=True).strip()}")
