"""Asyncio client for the Stability AI API: never over the quota, never a paid image lost."""

from importlib import import_module
from typing import TYPE_CHECKING

from stable_async._version import __version__
from stable_async.config import Quota, RetryPolicy, Timeouts
from stable_async.errors import (
    APIConnectionError,
    APIStatusError,
    APITimeoutError,
    AuthenticationError,
    BadRequestError,
    BudgetExceededError,
    ConfigurationError,
    ContentFilteredError,
    ContentModerationError,
    FieldProblem,
    InvalidRequestError,
    InvalidResponseError,
    NotFoundError,
    PayloadTooLargeError,
    PaymentRequiredError,
    PermissionDeniedError,
    QuotaTimeoutError,
    RateLimitError,
    ServerError,
    StabilityError,
    UnprocessableError,
    WrongEventLoopError,
)

if TYPE_CHECKING:
    from stable_async.api.account import (
        Account,
        AccountBalance,
        AccountDetails,
        Balance,
        Organization,
    )
    from stable_async.api.audio import AudioInpaint, AudioToAudio, TextToAudio
    from stable_async.api.base import Request, ResultRequest
    from stable_async.api.control import (
        ControlSketch,
        ControlStructure,
        ControlStyle,
        StyleTransfer,
    )
    from stable_async.api.edit import (
        Erase,
        Inpaint,
        Outpaint,
        RemoveBackground,
        ReplaceBackgroundAndRelight,
        SearchAndRecolor,
        SearchAndReplace,
    )
    from stable_async.api.file_input import FileInput
    from stable_async.api.generate import GenerateCore, GenerateSD3, GenerateUltra
    from stable_async.api.model3d import StableFast3D, StablePointAware3D
    from stable_async.api.results import AudioResult, ImageResult
    from stable_async.api.upscale import (
        UpscaleConservative,
        UpscaleCreative,
        UpscaleCreativeResult,
        UpscaleFast,
    )
    from stable_async.api.v1 import (
        Engine,
        TextPrompt,
        V1Engines,
        V1ImageToImage,
        V1Masking,
        V1TextToImage,
        V1Upscale,
    )
    from stable_async.client import Failure, Outcome, StabilityClient, Success
    from stable_async.media import Audio, Image, Model3D
    from stable_async.quota.shared import SharedQuota
    from stable_async.transport.streams import MediaStream

__all__ = [
    "APIConnectionError",
    "APIStatusError",
    "APITimeoutError",
    "Account",
    "AccountBalance",
    "AccountDetails",
    "Audio",
    "AudioInpaint",
    "AudioResult",
    "AudioToAudio",
    "AuthenticationError",
    "BadRequestError",
    "Balance",
    "BudgetExceededError",
    "ConfigurationError",
    "ContentFilteredError",
    "ContentModerationError",
    "ControlSketch",
    "ControlStructure",
    "ControlStyle",
    "Engine",
    "Erase",
    "Failure",
    "FieldProblem",
    "FileInput",
    "GenerateCore",
    "GenerateSD3",
    "GenerateUltra",
    "Image",
    "ImageResult",
    "Inpaint",
    "InvalidRequestError",
    "InvalidResponseError",
    "MediaStream",
    "Model3D",
    "NotFoundError",
    "Organization",
    "Outcome",
    "Outpaint",
    "PayloadTooLargeError",
    "PaymentRequiredError",
    "PermissionDeniedError",
    "Quota",
    "QuotaTimeoutError",
    "RateLimitError",
    "RemoveBackground",
    "ReplaceBackgroundAndRelight",
    "Request",
    "ResultRequest",
    "RetryPolicy",
    "SearchAndRecolor",
    "SearchAndReplace",
    "ServerError",
    "SharedQuota",
    "StabilityClient",
    "StabilityError",
    "StableFast3D",
    "StablePointAware3D",
    "StyleTransfer",
    "Success",
    "TextPrompt",
    "TextToAudio",
    "Timeouts",
    "UnprocessableError",
    "UpscaleConservative",
    "UpscaleCreative",
    "UpscaleCreativeResult",
    "UpscaleFast",
    "V1Engines",
    "V1ImageToImage",
    "V1Masking",
    "V1TextToImage",
    "V1Upscale",
    "WrongEventLoopError",
    "__version__",
]

# What is loaded when it is first asked for (PEP 562), by the module it is in: aiohttp and pydantic
# take a fifth of a second, and each request model a millisecond.
_LAZY = {
    "api.account": ("Account", "AccountBalance", "AccountDetails", "Balance", "Organization"),
    "api.audio": ("AudioInpaint", "AudioToAudio", "TextToAudio"),
    "api.control": ("ControlSketch", "ControlStructure", "ControlStyle", "StyleTransfer"),
    "api.edit": (
        "Erase",
        "Inpaint",
        "Outpaint",
        "RemoveBackground",
        "ReplaceBackgroundAndRelight",
        "SearchAndRecolor",
        "SearchAndReplace",
    ),
    "api.generate": ("GenerateCore", "GenerateSD3", "GenerateUltra"),
    "api.model3d": ("StableFast3D", "StablePointAware3D"),
    "api.results": ("AudioResult", "ImageResult"),
    "api.upscale": (
        "UpscaleConservative",
        "UpscaleCreative",
        "UpscaleCreativeResult",
        "UpscaleFast",
    ),
    "api.v1": (
        "Engine",
        "TextPrompt",
        "V1Engines",
        "V1ImageToImage",
        "V1Masking",
        "V1TextToImage",
        "V1Upscale",
    ),
    "api.base": ("Request", "ResultRequest"),
    "api.file_input": ("FileInput",),
    "client": ("Failure", "Outcome", "StabilityClient", "Success"),
    "media": ("Audio", "Image", "Model3D"),
    "quota.shared": ("SharedQuota",),
    "transport.streams": ("MediaStream",),
}
_MODULES = {name: module for module, names in _LAZY.items() for name in names}


def __getattr__(name: str) -> object:
    """Load the module of a public name."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(f"stable_async.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Name what is public, loaded or not."""
    return sorted({*globals(), *__all__})
