"""Hub: why it does not give out a model or a data set, with the way out."""

from __future__ import annotations

from collections.abc import Iterator


def refusal(error: BaseException, kind: str, name: str) -> str | None:
    """What is the matter with a "model" or "data set" that an error is about, and what to do about
    it, to be put behind its name; None where the hub did not refuse it.
    """
    from huggingface_hub import constants, errors, get_token

    page = f"{constants.ENDPOINT}/{'datasets/' if kind == 'data set' else ''}{name}"
    logged_in = get_token() is not None
    for link in causes(error):
        if isinstance(link, errors.GatedRepoError):
            if logged_in:
                return f"may not be read by this login; accept its terms at {page}"
            return f"is gated; accept its terms at {page}, then `hf auth login` or set HF_TOKEN"
        if isinstance(link, errors.RepositoryNotFoundError):
            if logged_in:
                return "is not known to the hub, or hidden from this login"
            return "is not known to the hub, or asks for a login: `hf auth login`, or set HF_TOKEN"
    if constants.HF_HUB_OFFLINE:
        for link in causes(error):
            if isinstance(link, ConnectionError | errors.LocalEntryNotFoundError):
                return "is not in the local cache, and HF_HUB_OFFLINE is set; unset it once"
    return None


def answer(kind: str, name: str) -> Exception | None:
    """What the hub has against giving a "model" or "data set" out right now; None where nothing.

    Libraries make errors of their own of what it answers, and lose it on the way.
    """
    import httpx
    from huggingface_hub import HfApi, constants, errors

    if constants.HF_HUB_OFFLINE:
        return None
    try:
        HfApi().auth_check(name, repo_type="dataset" if kind == "data set" else "model")
    except (errors.HfHubHTTPError, httpx.HTTPError, OSError) as error:
        return error
    return None


def is_passing(error: BaseException) -> bool:
    """Whether the hub may be well again in a moment: it is busy, fails, or cannot be reached."""
    import httpx
    from huggingface_hub import constants, errors

    if constants.HF_HUB_OFFLINE:
        return False
    for link in causes(error):
        if isinstance(link, errors.HfHubHTTPError):
            return link.response.status_code in (408, 429) or link.response.status_code >= 500
        if isinstance(link, httpx.TransportError | ConnectionError):
            return True
    return False


def causes(error: BaseException) -> Iterator[BaseException]:
    """The error, its cause, the cause's cause, and so on."""
    link: BaseException | None = error
    for _ in range(20):  # a chain can be a ring
        if link is None:
            return
        yield link
        link = link.__cause__ or link.__context__
