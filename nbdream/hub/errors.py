"""What the Hub's client raises, in one line with a hint."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from nbdream.errors import HubError
from nbdream.escape import terminal
from nbdream.optional import require
from nbdream.secrets import redact

TOKENS = "make a token with write access at https://huggingface.co/settings/tokens"


class Conflict(Exception):
    """The commit did not go through and may at another try: somebody else committed, or the Hub was busy."""

    def __init__(self, error: HubError) -> None:
        super().__init__(str(error))
        self.error = error


@contextlib.contextmanager
def hub_errors(repo_id: str) -> Iterator[None]:
    """Turn what the client raises about ``repo_id`` into `HubError`."""
    client = require("huggingface_hub", "hub").errors
    try:
        yield
    except client.HFValidationError as error:
        raise HubError(f"{repo_id!r} is no name of a repository", "write it as owner/name") from error
    except client.HfHubHTTPError as error:
        raise _refused(repo_id, error) from error
    except client.OfflineModeIsEnabled as error:
        raise HubError("the Hub is switched off", "unset HF_HUB_OFFLINE, or publish to a folder: ./…") from error
    except (client.HTTPError, OSError, RuntimeError) as error:
        if isinstance(error, HubError) or not _is_transport(client, error):
            raise
        hint = "HF_HUB_DISABLE_XET=1 uploads without Xet" if "xet" in str(error).lower() else "try again, or publish to a folder: ./…"
        raise HubError(f"the Hub cannot be reached: {_one_line(error)}", hint) from error


def status(error: HubError) -> int | None:
    """The HTTP status that the Hub answered with, if it did."""
    return getattr(getattr(error.__cause__, "response", None), "status_code", None)


def is_cut_off(error: HubError) -> bool:
    """Whether the connection broke, so that nobody knows what came of it."""
    cause = error.__cause__
    answered = status(error) is not None or "HTTP status" in str(cause)
    return not answered and cause is not None and _is_transport(require("huggingface_hub", "hub").errors, cause)


def _is_transport(client: Any, error: BaseException) -> bool:
    """Whether the connection failed; the client wraps that of an upload in a ``RuntimeError``."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, (client.HTTPError, ConnectionError, TimeoutError)):
            return True
        cause = cause.__cause__
    return False


def _refused(repo_id: str, error: Any) -> HubError:
    code = error.response.status_code
    if code == 401:
        return HubError("the Hub refuses the token", TOKENS)
    if code == 403:
        return HubError(f"the token may not write to {repo_id}", f"publish under a name of your own, or {TOKENS}")
    if code == 404:
        return HubError(f"the Hub has no {repo_id} that this token may see", "look at its name, branch and owner")
    said = _one_line(error.server_message or error)
    return HubError(f"the Hub refuses to publish {repo_id} ({code}): {said}", "nothing was published")


def _one_line(error: object) -> str:
    return terminal(redact(" ".join(str(error).split())))[:200]
