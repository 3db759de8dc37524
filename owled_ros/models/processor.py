"""Load a model's processor (tokenizer, image processor, chat template) from local files. Needs transformers.

Videos are never shown to a model, so its processor must not fail because the video part wants a package that is not there:
where torchvision is missing or broken, transformers' image processors on PIL prepare the images and the video part is left out.
"""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

from owled_ros.errors import OwledError
from owled_ros.models.llm_driver_processor import PROCESSOR_NAME, LlmDriverProcessor
from owled_ros.models.load import LOAD_ERRORS, existing
from owled_ros.models.packages import torchvision_works, without_num2words
from owled_ros.models.pixels import standing_in

FILES_WITH_CLASS = (
    "processor_config.json",
    "preprocessor_config.json",
    "video_preprocessor_config.json",
    "tokenizer_config.json",
)


def load_processor(path: Path | str, allow_download: bool = False) -> Any:
    """Load the processor of a vision-language model, or the tokenizer of a language model or GGUF file.

    Raises:
        OwledError: With the processor's own words, when its files are missing, damaged, or need a package.
    """
    torchvision_works()
    from transformers import AutoTokenizer

    from owled_ros.models.llm_driver import register

    register()  # else transformers takes its configuration for a damaged one
    place = existing(path, allow_download)
    options: dict[str, Any] = {"local_files_only": place is not None, "trust_remote_code": False}
    name = str(place or path)
    try:
        if place is not None and (place / PROCESSOR_NAME).is_file():
            return LlmDriverProcessor.from_pretrained(place, **options)
        if place is not None and place.suffix == ".gguf":
            return AutoTokenizer.from_pretrained(str(place.parent), gguf_file=place.name, **options)
        if not _sees(name, options):
            return AutoTokenizer.from_pretrained(name, **options)
    except LOAD_ERRORS as err:
        raise OwledError(f"no tokenizer can be loaded from {path} ({err})") from err
    try:
        return _processor(name, options)
    except LOAD_ERRORS as err:
        raise OwledError(f"the processor of {path} cannot be loaded ({type(err).__name__}: {err})") from err


def _sees(name: str, options: dict[str, Any]) -> bool:
    from transformers import AutoConfig, AutoModelForImageTextToText

    try:
        config = AutoConfig.from_pretrained(name, **options)
    except LOAD_ERRORS:
        return (Path(name) / "processor_config.json").is_file()
    return type(config) in AutoModelForImageTextToText._model_mapping


def _processor(name: str, options: dict[str, Any]) -> Any:
    from transformers import AutoProcessor

    without_num2words()
    place = Path(name)
    kind = None if torchvision_works() or not place.is_dir() else _processor_class(place, options)
    return AutoProcessor.from_pretrained(name, **options) if kind is None else _composed(kind, place, options)


def _processor_class(place: Path, options: dict[str, Any]) -> Any:
    """Find the class as AutoProcessor does: by name in the files, else by the model."""
    from transformers import AutoConfig
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING, processor_class_from_name

    for file in FILES_WITH_CLASS:
        named = _values(place / file).get("processor_class")
        if named is not None:
            return _real(processor_class_from_name(named))
    return _real(PROCESSOR_MAPPING.get(type(AutoConfig.from_pretrained(str(place), **options)), None))


def _values(file: Path) -> dict[str, Any]:
    try:
        values = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    except ValueError as err:
        raise ValueError(f"{file.name} is not JSON: {err}") from err
    return values if isinstance(values, dict) else {}


def _real(kind: Any) -> Any:
    """Give the class behind the placeholder that transformers shows where a package is missing."""
    import transformers

    if kind is None or not hasattr(kind, "_backends"):
        return kind
    with standing_in():
        return getattr(importlib.import_module(getattr(transformers, kind.__name__).__module__), kind.__name__)


def _composed(kind: Any, place: Path, options: dict[str, Any]) -> Any:
    """Make a processor from its tokenizer and its image processor, without the video part."""
    from transformers import AutoFeatureExtractor, AutoTokenizer

    name = str(place)
    images = _image_processor(place, options)
    values, rest = kind.get_processor_dict(name, **options)
    no_video = _no_video()
    makers = {
        "image_processor": lambda: images,
        "video_processor": lambda: no_video(values.get("video_processor") or {}, images),
        "tokenizer": lambda: AutoTokenizer.from_pretrained(name, **options),
        "feature_extractor": lambda: AutoFeatureExtractor.from_pretrained(name, **options),
    }
    parts = kind.get_attributes()
    strange = [part for part in parts if part not in makers]
    if strange:
        raise ValueError(f"{kind.__name__} has a part that is not known here, {strange[0]}; install torchvision")

    class Composed(kind):  # type: ignore[misc]
        def check_argument_for_proper_class(self, argument_name: str, argument: Any) -> Any:
            if isinstance(argument, no_video) or argument is images:
                return type(argument)
            return super().check_argument_for_proper_class(argument_name, argument)

    Composed.__name__ = Composed.__qualname__ = kind.__name__  # the name that is saved
    rest = {key: value for key, value in rest.items() if key not in options}
    return Composed.from_args_and_dict([makers[part]() for part in parts], values, **rest)


def _image_processor(place: Path, options: dict[str, Any]) -> Any:
    """Load the image processor on PIL, or the one on torch where there is no other."""
    import transformers
    from transformers import AutoConfig, AutoImageProcessor
    from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING_NAMES

    stored = _values(place / "processor_config.json").get("image_processor") or _values(
        place / "preprocessor_config.json"
    )
    named = str(stored.get("image_processor_type") or "").removesuffix("Fast")
    if not named:
        family = AutoConfig.from_pretrained(str(place), **options).model_type
        named = str((IMAGE_PROCESSOR_MAPPING_NAMES.get(family) or {}).get("torchvision") or "")
    known = getattr(transformers, f"{named}Pil", None) is not None or named.endswith("Pil")
    if known or not hasattr(transformers, named):
        return AutoImageProcessor.from_pretrained(str(place), **options)
    return _real(getattr(transformers, named)).from_pretrained(str(place), **options)


def _no_video() -> Any:
    from transformers.utils import PushToHubMixin

    class NoVideo(PushToHubMixin):
        """Stands where a processor has its video part; knows its settings, shows nothing."""

        _auto_class = None
        model_input_names: tuple[str, ...] = ()

        def __init__(self, values: dict[str, Any], images: Any) -> None:
            self._values, self._images = values, images

        def __getattr__(self, name: str) -> Any:
            if name.startswith("_"):
                raise AttributeError(name)
            return self._values[name] if name in self._values else getattr(self._images, name, None)

        def to_dict(self) -> dict[str, Any]:
            return dict(self._values)

        def __call__(self, *_: Any, **__: Any) -> Any:
            raise OwledError("videos need torchvision; show the model images")

    return NoVideo
