"""huggingface_hub's errors as this app's errors: what is wrong and what to do next."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from huggingface_hub import constants, errors

from playground.errors import BadInput, NoRoom, NotAllowed, Offline, PlaygroundError, Unavailable, disk_is_full


@contextmanager
def translated(what: str) -> Iterator[None]:
    """Raise what huggingface_hub raises as a PlaygroundError. `what`: a repository, or "repository: file"."""
    repo = what.partition(":")[0]
    try:
        yield
    except errors.GatedRepoError:
        raise NotAllowed(
            f"{what} is gated: accept its licence at {constants.ENDPOINT}/{repo} with your account, then "
            "enter a token of that account (Settings, Access Tokens) here. A command reads it from HF_TOKEN."
        ) from None
    except errors.RepositoryNotFoundError:
        raise BadInput(
            f"{what} is not on the Hub, or private. Check the spelling; a private repository needs a token."
        ) from None
    except errors.RevisionNotFoundError:
        raise BadInput(f"{what} has no such revision. Leave it out for the newest.") from None
    except errors.LocalEntryNotFoundError:  # of hf_hub_download, when it cannot ask
        raise Offline(f"{what}: the Hub cannot be reached. Check the network, and try again.") from None
    except errors.EntryNotFoundError:
        raise BadInput(f"{what} is not there any more. Open the repository again.") from None
    except errors.OfflineModeIsEnabled:
        raise Offline(
            "Access to the Hub is switched off (HF_HUB_OFFLINE). You can use the files on this machine."
        ) from None
    except errors.HFValidationError:
        raise BadInput(f"'{what[:80]}' is not a valid repository id. Write it as owner/name.") from None
    except errors.HfHubHTTPError as error:
        raise refused(error.response.status_code if error.response is not None else None, what) from None
    except OSError as error:
        if disk_is_full(error):
            raise NoRoom("The disk is full. The partial download is kept: free some space, and resume.") from None
        if error.errno is not None:
            raise Unavailable(f"The Hub's cache cannot be used: {error}. Repair it, and resume.") from None
        raise Offline(f"{what}: {error}. Check the network, and try again.") from None
    except Exception as error:
        if is_network(error):
            raise Offline(f"The Hub cannot be reached ({error}). Check the network, and try again.") from None
        raise


@contextmanager
def understood() -> Iterator[None]:
    """Raise Offline for a reply that does not have the Hub's form, such as the login page of a hotel's network."""
    try:
        yield
    except errors.HFValidationError:
        raise
    except (AttributeError, KeyError, TypeError, ValueError):
        raise Offline(
            f"The reply of {constants.ENDPOINT} is not the Hub's. Check the network, and HF_ENDPOINT."
        ) from None


def refused(status: int | None, what: str) -> PlaygroundError:
    """The error of an HTTP status."""
    if status == 429:
        return Offline("The Hub received too many requests. Try again in a few minutes.")
    if status in (401, 403):
        return NotAllowed(f"This token does not give access to {what}. Check the token's rights.")
    return Offline(f"The Hub answered {status} for {what}. Try again later.")


def is_network(error: Exception) -> bool:
    """Whether huggingface_hub's HTTP client raised it."""
    return type(error).__module__.partition(".")[0] in ("httpx", "httpx2", "httpcore")
