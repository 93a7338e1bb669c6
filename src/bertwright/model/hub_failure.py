"""What it means when something cannot be fetched from the hub, in this project's words."""

from __future__ import annotations

# What comes of an answer that is no JSON, or JSON of something else.
_UNREADABLE = (ValueError, LookupError, TypeError, AttributeError, AssertionError, RecursionError)


def hub_failure(name: str, error: BaseException, what: str, expected: str, *, may_be_local: bool = False) -> str:
    """One line on why ``name`` could not be fetched, from the ``error`` that huggingface_hub raised.

    ``what`` it is, "model" or "data set"; ``expected`` says what names there are, for one that is not known. With
    ``may_be_local`` the name may also have been meant for a folder, of which it is already clear that there is none.
    """
    from huggingface_hub import constants, errors

    no_folder = "no such folder, and " if may_be_local else ""
    if isinstance(error, errors.GatedRepoError):
        return f"{name}: access on the hub must be asked for; then log in with `hf auth login`"
    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, errors.RepositoryNotFoundError) or status == 401:
        return (
            f"{name}: {no_folder}no such public {what} on the hub, or access to it needs a login (`hf auth login`). "
            f"{expected}"
        )
    if isinstance(error, errors.HFValidationError):
        return f"{name}: {no_folder}not the name of a {what} on the hub. {expected}"
    if isinstance(error, errors.HfHubHTTPError):
        return f"{name}: the hub answered with an error: {(str(error) or type(error).__name__).splitlines()[0]}"
    if is_unreadable(error):
        return (
            f"{name}: the hub's answer cannot be read ({named(error)}). Is a login page or a proxy between this "
            "machine and the hub?"
        )
    if isinstance(error, (RuntimeError, *xet_errors())):
        return f"{name}: the transfer failed ({named(error)}). Try again"
    if isinstance(error, OSError) and type(error) in (OSError, PermissionError) and error.strerror:
        return f"{name}: cannot be kept in the hub's cache on this machine ({error.strerror.lower()})"
    reason = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else "the hub cannot be reached"
    return f"{name}: not in the hub's cache on this machine, and {reason}" + (f". {expected}" if may_be_local else "")


def named(error: BaseException) -> str:
    """What happened, in a few words."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    return f"status {status}" if status else (str(error).splitlines() or [type(error).__name__])[0][:120]


def hub_errors() -> tuple[type[Exception], ...]:
    """All that a bad hub, line or cache makes huggingface_hub raise: by an answer that is not the hub's, too, and what
    hf_xet gives up with."""
    return (OSError, RuntimeError, *_UNREADABLE, http_error(), *xet_errors())


def http_error() -> type[Exception]:
    """What a failed connection raises: the HTTP library is another one from version to version of huggingface_hub."""
    from huggingface_hub import errors

    base: type[Exception] = errors.HTTPError
    if base.__module__.startswith("requests"):  # there it is that of a status alone
        from requests import RequestException

        return RequestException
    return base


def xet_errors() -> tuple[type[Exception], ...]:
    """What huggingface_hub itself calls failures of hf_xet: other names from version to version."""
    from huggingface_hub import errors

    found = (value for name, value in vars(errors).items() if name.startswith("Xet"))
    return tuple(value for value in found if isinstance(value, type) and issubclass(value, Exception))


def is_unreadable(error: BaseException) -> bool:
    """Whether it comes of an answer that is not the hub's. One that is no JSON is an OSError too where huggingface_hub
    uses requests, whose other OSErrors may be ValueErrors too."""
    from huggingface_hub import errors

    if isinstance(error, errors.HfHubHTTPError | errors.LocalEntryNotFoundError | errors.HFValidationError):
        return False
    if any(base.__name__ == "JSONDecodeError" for base in type(error).__mro__):  # that of json, or of simplejson
        return True
    return isinstance(error, _UNREADABLE) and not isinstance(error, OSError)
