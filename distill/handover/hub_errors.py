"""What the Hugging Face hub's refusals mean, and what to do about each."""

from __future__ import annotations

import os
import re

from distill.errors import DistillError
from distill.handover.words import PushWish

_LOGIN = "`hf auth login` with a token that may write, or set HF_TOKEN, or name a file with --token-file"
_TOKEN = re.compile(r"\bhf_\w+|Bearer \S+")


def in_words(error: Exception, wish: PushWish, endpoint: str, token: str | None) -> DistillError:
    """One message, in which there is no token."""
    reason: BaseException = error
    while _status(reason) is None and isinstance(cause := reason.__cause__, Exception):  # uploads of large files wrap what happened
        reason = cause
    return DistillError(_without_token(_text(reason, _status(reason), wish, endpoint), token))


def _status(error: BaseException) -> int | None:
    return getattr(getattr(error, "response", None), "status_code", None)


def _text(error: BaseException, status: int | None, wish: PushWish, endpoint: str) -> str:
    names = {one.__name__ for one in type(error).__mro__}
    organisation = wish.repository.partition("/")[0]
    if "OfflineModeIsEnabled" in names:
        return "HF_HUB_OFFLINE is set, so nothing can be pushed: unset it"
    if "GatedRepoError" in names:
        return f"{wish.repository} is gated, and this account has no access: ask for it at {endpoint}/{wish.repository}, or take another name"
    if "LocalTokenNotFoundError" in names or status == 401:
        known = "the hub does not know this token" if wish.token_file or os.environ.get("HF_TOKEN") else "the hub does not know who you are"
        return f"{known} (401): {_LOGIN}"
    if status == 403:
        advice = f"take a token with the right to write to {organisation}, or your own name"
        return f"this account or its token may not write to {wish.repository} (403): {advice}"
    if "RevisionNotFoundError" in names:
        return f"{wish.repository} has no branch {wish.revision!r} (404): leave out --revision, or make it first"
    if status == 404:
        return f"the hub has no {wish.repository}, or no {organisation} (404): check the name"
    if status == 400:
        return f"the hub does not take {wish.repository} (400): {_first_line(error)}"
    if status is not None:
        return f"the hub answered {status} for {wish.repository}: {_first_line(error)}; try again later"
    if _is_of_network(names, error):
        return f"{endpoint} can't be reached ({_first_line(error)}): is there a network here, and is HF_ENDPOINT right?"
    return f"{wish.repository} was not pushed: {type(error).__name__}: {_first_line(error)}"


def _is_of_network(names: set[str], error: BaseException) -> bool:
    is_of_http_library = type(error).__module__.partition(".")[0].startswith(("httpx", "httpcore", "requests", "urllib3"))
    return is_of_http_library or bool(names & {"ConnectionError", "TimeoutError", "gaierror"})


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def _without_token(text: str, token: str | None) -> str:
    known = [one for one in (token, os.environ.get("HF_TOKEN")) if one]
    for one in known:
        text = text.replace(one, "(token)")
    return _TOKEN.sub("(token)", text)
