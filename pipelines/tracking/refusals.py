"""What a tracking store will never take, told from what may go well another time."""

from PIL import UnidentifiedImageError
from requests import HTTPError

_REFUSALS = ("INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST")  # MLflow's codes
_DOUBTFUL = "BAD_REQUEST"  # which also stands for any error of the store's database but a lost connection
_CERTAIN = 3  # answers in a row that make a doubtful refusal one
_PASSING = (401, 403, 408, 409, 425, 429)  # of a web server: not about what it was given


def is_refusal(error: BaseException, tries: int = 1) -> bool:
    """True when the store answers and will not take it, False for an absent store, and errors of other kinds.

    tries: how often it has said so. Missing rights are none: they concern whatever comes.
    """
    if code := getattr(error, "error_code", None):
        return code in _REFUSALS or (code == _DOUBTFUL and tries >= _CERTAIN)
    if isinstance(error, HTTPError) and error.response is not None:
        return 400 <= error.response.status_code < 500 and error.response.status_code not in _PASSING
    if isinstance(error, OSError):
        return isinstance(error, FileNotFoundError | UnidentifiedImageError)
    return isinstance(error, ValueError | TypeError | LookupError | AttributeError)
