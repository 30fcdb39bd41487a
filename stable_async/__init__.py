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
    from stable_async.api.audio import (
        AudioFormat,
        AudioInpaint,
        AudioModel,
        AudioToAudio,
        TextToAudio,
    )
    from stable_async.api.base import (
        ImageRequest,
        MediaRequest,
        Operation,
        Request,
        ResultRequest,
        WholeRequest,
    )
    from stable_async.api.control import (
        ControlSketch,
        ControlStructure,
        ControlStyle,
        StyleTransfer,
    )
    from stable_async.api.edit import (
        Erase,
        Inpaint,
        LightDirection,
        Outpaint,
        RemoveBackground,
        ReplaceBackgroundAndRelight,
        SearchAndRecolor,
        SearchAndReplace,
    )
    from stable_async.api.fields import AspectRatio, ImageFormat, StylePreset
    from stable_async.api.file_input import (
        FileInput,
        SupportsArrayInterface,
        SupportsFile,
        SupportsRead,
        SupportsReadChunk,
    )
    from stable_async.api.generate import GenerateCore, GenerateSD3, GenerateUltra, SD3Model
    from stable_async.api.model3d import Remesh, StableFast3D, StablePointAware3D, TextureResolution
    from stable_async.api.results import AudioResult, ImageResult
    from stable_async.api.upscale import (
        UpscaleConservative,
        UpscaleCreative,
        UpscaleCreativeResult,
        UpscaleFast,
    )
    from stable_async.api.v1 import (
        ClipGuidancePreset,
        Engine,
        Sampler,
        TextPrompt,
        V1Engines,
        V1ImageToImage,
        V1Masking,
        V1TextToImage,
        V1Upscale,
    )
    from stable_async.api.verdict import Verdict
    from stable_async.client import Failure, Outcome, StabilityClient, Success
    from stable_async.files import Sink
    from stable_async.media import Audio, Image, Media, Model3D
    from stable_async.quota import Priority, QuotaStatistics
    from stable_async.quota.shared import SharedQuota
    from stable_async.transport.options import AttemptObserver, CallOptions, ResponseHead
    from stable_async.transport.streams import MediaStream
    from stable_async.transport.telemetry import CallTelemetry, Telemetry

__all__ = [
    "APIConnectionError",
    "APIStatusError",
    "APITimeoutError",
    "Account",
    "AccountBalance",
    "AccountDetails",
    "AspectRatio",
    "AttemptObserver",
    "Audio",
    "AudioFormat",
    "AudioInpaint",
    "AudioModel",
    "AudioResult",
    "AudioToAudio",
    "AuthenticationError",
    "BadRequestError",
    "Balance",
    "BudgetExceededError",
    "CallOptions",
    "CallTelemetry",
    "ClipGuidancePreset",
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
    "ImageFormat",
    "ImageRequest",
    "ImageResult",
    "Inpaint",
    "InvalidRequestError",
    "InvalidResponseError",
    "LightDirection",
    "Media",
    "MediaRequest",
    "MediaStream",
    "Model3D",
    "NotFoundError",
    "Operation",
    "Organization",
    "Outcome",
    "Outpaint",
    "PayloadTooLargeError",
    "PaymentRequiredError",
    "PermissionDeniedError",
    "Priority",
    "Quota",
    "QuotaStatistics",
    "QuotaTimeoutError",
    "RateLimitError",
    "Remesh",
    "RemoveBackground",
    "ReplaceBackgroundAndRelight",
    "Request",
    "ResponseHead",
    "ResultRequest",
    "RetryPolicy",
    "SD3Model",
    "Sampler",
    "SearchAndRecolor",
    "SearchAndReplace",
    "ServerError",
    "SharedQuota",
    "Sink",
    "StabilityClient",
    "StabilityError",
    "StableFast3D",
    "StablePointAware3D",
    "StylePreset",
    "StyleTransfer",
    "Success",
    "SupportsArrayInterface",
    "SupportsFile",
    "SupportsRead",
    "SupportsReadChunk",
    "Telemetry",
    "TextPrompt",
    "TextToAudio",
    "TextureResolution",
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
    "Verdict",
    "WholeRequest",
    "WrongEventLoopError",
    "__version__",
]

# Names loaded on first access (PEP 562), by the module that defines them: aiohttp and pydantic take
# a fifth of a second, and each request model a millisecond.
_LAZY = {
    "api.account": "Account AccountBalance AccountDetails Balance Organization",
    "api.audio": "AudioFormat AudioInpaint AudioModel AudioToAudio TextToAudio",
    "api.base": "ImageRequest MediaRequest Operation Request ResultRequest WholeRequest",
    "api.control": "ControlSketch ControlStructure ControlStyle StyleTransfer",
    "api.edit": (
        "Erase Inpaint LightDirection Outpaint RemoveBackground ReplaceBackgroundAndRelight"
        " SearchAndRecolor SearchAndReplace"
    ),
    "api.fields": "AspectRatio ImageFormat StylePreset",
    "api.file_input": (
        "FileInput SupportsArrayInterface SupportsFile SupportsRead SupportsReadChunk"
    ),
    "api.generate": "GenerateCore GenerateSD3 GenerateUltra SD3Model",
    "api.model3d": "Remesh StableFast3D StablePointAware3D TextureResolution",
    "api.results": "AudioResult ImageResult",
    "api.upscale": "UpscaleConservative UpscaleCreative UpscaleCreativeResult UpscaleFast",
    "api.v1": (
        "ClipGuidancePreset Engine Sampler TextPrompt V1Engines V1ImageToImage V1Masking"
        " V1TextToImage V1Upscale"
    ),
    "api.verdict": "Verdict",
    "client": "Failure Outcome StabilityClient Success",
    "files": "Sink",
    "media": "Audio Image Media Model3D",
    "quota": "Priority QuotaStatistics",
    "quota.shared": "SharedQuota",
    "transport.options": "AttemptObserver CallOptions ResponseHead",
    "transport.streams": "MediaStream",
    "transport.telemetry": "CallTelemetry Telemetry",
}
_MODULES = {name: module for module, names in _LAZY.items() for name in names.split()}


def __getattr__(name: str) -> object:
    """Load the module of a public name."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(f"stable_async.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Return the public names, loaded or not."""
    return sorted({*globals(), *__all__})
