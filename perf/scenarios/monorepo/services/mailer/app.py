"""Mailer: letters to customers, kept until a mail server has taken them."""

from email.message import EmailMessage

from flask import Flask, request
from pydantic import BaseModel
from shared import service


class Letter(BaseModel):
    to: str
    subject: str
    text: str


app: Flask = service.create("mailer")
_waiting: list[EmailMessage] = []


@app.post("/letters")
def add() -> tuple[str, int]:
    letter = Letter.model_validate_json(request.data)
    message = EmailMessage()
    message["To"], message["Subject"] = letter.to, letter.subject
    message.set_content(letter.text)
    _waiting.append(message)
    return "", 202


@app.get("/letters")
def waiting() -> dict[str, int]:
    return {"waiting": len(_waiting)}


if __name__ == "__main__":
    service.main(app, "/letters")
