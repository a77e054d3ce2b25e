"""The application: what can be asked, and what is answered."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from importlib.resources import files
from typing import Annotated, Any

import numpy as np
from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from numpy.typing import NDArray
from PIL import Image
from pydantic import BaseModel, Field
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser

from densely import pictures
from densely.evaluation.views import YES
from densely.explain import overlay
from densely.export.description import Description
from densely.serve.batching import Answer, Batcher
from densely.serve.decoding import Decoder
from densely.serve.engine import Engine
from densely.serve.limits import Limits
from densely.serve.metrics import Metrics
from densely.serve.refusal import Refused
from densely.serve.samples import Sample
from densely.version import __version__

#: The page is one file that asks nobody but its own server.
PAGE_POLICY = (
    "default-src 'none'; connect-src 'self'; img-src data: blob:; media-src blob:; script-src 'unsafe-inline'; "
    "style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


class Map(BaseModel):
    """What speaks for a class, where in the image."""

    values: list[list[float]] = Field(description="The class activation map, h × w; its mean is the class's logit.")
    overlay: str = Field(
        description="The same as a transparent PNG of h × w pixels, a data URL, to lay over the image."
    )


class Likely(BaseModel):
    """A class, and how likely it is."""

    model_config = {"populate_by_name": True}

    label: str = Field(alias="class")
    probability: float
    map: Map | None = Field(None, description="With maps=true.")


class OneImage(BaseModel):
    """What the network says of one image; or why it says nothing."""

    name: str | None = Field(None, description="The file's name, where the form gave one.")
    top: list[Likely] | None = Field(None, description="Likeliest first.")
    labels: list[str] | None = Field(
        None, description="Of a network of several labels an image: all whose probability is at least 0.5."
    )
    error: str | None = None


class Predicted(BaseModel):
    """The images of a request, in its order."""

    images: list[OneImage]


class Wrong(BaseModel):
    """Why there is no answer."""

    error: str


class Served(BaseModel):
    """The network that is served."""

    name: str
    class_names: list[str]
    multi_label: bool
    input_shape: tuple[int, int, int] = Field(description="Height, width and channels that images are brought to.")
    max_body_bytes: int
    max_pixels: int
    max_images: int
    samples: list[str] = Field(description="What the images at /samples/0, /samples/1, … are called.")


class Health(BaseModel):
    """That it lives."""

    status: str
    model: str
    version: str


_ANY_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "image/*": {"schema": {"type": "string", "format": "binary"}},
            "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "additionalProperties": {"type": "array", "items": {"type": "string", "format": "binary"}},
                }
            },
        },
    }
}
_WRONG: dict[int | str, dict[str, Any]] = {
    400: {"model": Wrong, "description": "An empty body, or no whole form."},
    401: {"model": Wrong, "description": "The token is missing or wrong."},
    408: {"model": Wrong, "description": "The body came too slowly."},
    413: {"model": Wrong, "description": "Too many bytes, pixels or images."},
    415: {"model": Wrong, "description": "No PNG, JPEG, WebP or BMP image."},
    422: {"model": Wrong, "description": "A damaged image, or a wrong parameter."},
    503: {"model": Wrong, "description": "Too much at one time: ask again."},
}


def application(engine: Engine, limits: Limits, metrics: Metrics, samples: Sequence[Sample] = ()) -> FastAPI:
    """The application around a network; nothing guards it yet.

    Args:
        engine: the network.
        limits: of images and of the queue.
        metrics: told of images and batches.
        samples: images that the page offers.
    """
    meaning = engine.meaning
    decoder = Decoder(meaning.input_shape, limits.pixels)
    batcher = Batcher(engine, metrics, limits.batch, limits.queue)
    page = files(__package__).joinpath("page.html").read_text(encoding="utf-8")

    @asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        running = asyncio.create_task(batcher.run())
        yield
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running
        batcher.close()
        decoder.close()

    app = FastAPI(
        title=f"Densely: {meaning.name}",
        description="A trained network: images in, classes out.",
        version=__version__,
        lifespan=life,
        docs_url=None,  # that page would be loaded from another server
        redoc_url=None,
    )

    @app.exception_handler(Refused)
    async def refused(request: Request, why: Refused) -> JSONResponse:
        metrics.errors.labels(why.kind).inc()
        return JSONResponse({"error": why.sentence}, why.status, why.headers)

    @app.exception_handler(HTTPException)
    async def not_there(request: Request, error: HTTPException) -> JSONResponse:
        known = "There is /, /predict (POST), /health, /metrics, /model and /openapi.json."
        sentence = known if error.status_code in (404, 405) else str(error.detail)
        return JSONResponse({"error": sentence}, error.status_code, error.headers)

    @app.exception_handler(RequestValidationError)
    async def wrong_parameter(request: Request, error: RequestValidationError) -> JSONResponse:
        metrics.errors.labels("parameter").inc()
        first = error.errors()[0]
        name, given = first["loc"][-1], str(first.get("input"))[:50]
        return JSONResponse({"error": f"{name}={given}: {first['msg']}."}, 422)

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> JSONResponse:
        return JSONResponse({"error": "The server failed; its log says more."}, 500)

    @app.post(
        "/predict",
        response_model=Predicted,
        response_model_exclude_none=True,
        responses=_WRONG,
        openapi_extra=_ANY_BODY,
        summary="The likeliest classes of one image, or of the files of a form",
    )
    async def predict(
        request: Request,
        top: Annotated[int, Query(ge=1, le=1000, description="How many classes to name.")] = 5,
        maps: Annotated[bool, Query(description="Whether to show where in the image the network sees them.")] = False,
    ) -> JSONResponse:
        if unknown := sorted(set(request.query_params) - {"top", "maps"}):
            raise Refused(422, "parameter", f"There is no parameter {unknown[0][:50]}: there are top and maps.")
        given = await _files(request, limits)
        decoded = await asyncio.gather(*(decoder.pixels_of(data) for _, data in given))
        right = [pixels for pixels in decoded if not isinstance(pixels, Refused)]
        answers = iter(await batcher.answers(right, maps) if right else [])
        told: list[dict[str, Any]] = []
        refusals: list[Refused] = []
        for (name, _), pixels in zip(given, decoded, strict=True):
            one = pixels if isinstance(pixels, Refused) else _said(next(answers), meaning, top)
            if isinstance(one, Refused):
                metrics.errors.labels(one.kind).inc()
                refusals.append(one)
                one = {"error": one.sentence}
            told.append(one if name is None else {"name": name, **one})
        metrics.images.labels("right").inc(len(told) - len(refusals))
        metrics.images.labels("refused").inc(len(refusals))
        if len(refusals) < len(told):
            return JSONResponse({"images": told})
        whole = {"error": refusals[0].sentence}
        return JSONResponse(whole if len(told) == 1 else {**whole, "images": told}, refusals[0].status)

    @app.get("/health", response_model=Health, summary="Whether it lives")
    async def health() -> JSONResponse:
        return JSONResponse({"status": "ok", "model": meaning.name, "version": __version__})

    @app.get("/metrics", summary="What has happened, as Prometheus reads it")
    async def counted() -> Response:
        return Response(metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.get("/model", response_model=Served, responses={401: _WRONG[401]}, summary="What is served")
    async def model() -> JSONResponse:
        return JSONResponse(
            {
                "name": meaning.name,
                "class_names": meaning.class_names,
                "multi_label": meaning.multi_label,
                "input_shape": meaning.input_shape,
                "max_body_bytes": limits.body,
                "max_pixels": limits.pixels,
                "max_images": limits.images,
                "samples": [sample.name for sample in samples],
            }
        )

    @app.get("/samples/{number}", response_class=Response, include_in_schema=False)
    async def sample(number: int) -> Response:
        if not 0 <= number < len(samples):
            raise HTTPException(404)
        return Response(samples[number].data, media_type=samples[number].kind)

    @app.get("/", response_class=Response, include_in_schema=False)
    async def index() -> Response:
        headers = {"Content-Security-Policy": PAGE_POLICY}
        return Response(page, media_type="text/html; charset=utf-8", headers=headers)

    return app


class _InMemory(MultiPartParser):
    """A form's files stay in memory: bodies are bounded, and nothing is written to disk."""

    spool_max_size = sys.maxsize


async def _files(request: Request, limits: Limits) -> list[tuple[str | None, bytes]]:
    """Names and contents of a request's images.

    Raises:
        Refused: if there is none, or too many, or a body of another kind.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    body = await request.body()
    if not body:
        raise Refused(400, "empty", "The body is empty: send an image, or a form with files.")
    if kind.startswith("image/") or kind == "application/octet-stream":
        return [(None, body)]
    if kind != "multipart/form-data":
        sentence = "Send the image as image/* or application/octet-stream, or files as multipart/form-data"
        hint = " (curl: -H 'Content-Type: image/png')" if kind == "application/x-www-form-urlencoded" else ""
        raise Refused(415, "content_type", f"{sentence}, not as {kind[:50] or 'nothing in particular'}{hint}.")

    async def stream() -> AsyncGenerator[bytes, None]:
        yield body

    try:
        parser = _InMemory(request.headers, stream(), max_files=limits.images + 1, max_fields=16, max_part_size=65536)
        form = await parser.parse()
    except MultiPartException as error:
        if error.message.startswith("Too many files"):
            raise _too_many(limits) from None
        raise Refused(400, "form", f"The form cannot be read: {error.message}") from None
    try:
        found = [part for _, part in form.multi_items() if isinstance(part, UploadFile)]
        if len(found) > limits.images:
            raise _too_many(limits)
        if not found:
            raise Refused(400, "empty", "The form has no file: add one as curl -F image=@photo.jpg does.")
        return [((part.filename or "")[:255], part.file.read()) for part in found]
    finally:
        await form.close()


def _too_many(limits: Limits) -> Refused:
    return Refused(413, "too_many_images", f"A request may have {limits.images} images: send the others in another.")


def _said(answer: Answer, meaning: Description, top: int) -> dict[str, Any] | Refused:
    """An answer in words."""
    p = answer.probabilities
    if not np.isfinite(p).all():
        return Refused(500, "not_finite", "The network's answer for this image is no number.")
    order = np.argsort(-p, kind="stable")
    names = meaning.class_names
    found: dict[str, Any] = {"top": []}
    for i in order[:top]:
        one: dict[str, Any] = {"class": names[i], "probability": round(float(p[i]), 6)}
        if answer.maps is not None:
            one["map"] = _drawn(answer.maps[..., i])
        found["top"].append(one)
    if meaning.multi_label:
        found["labels"] = [names[i] for i in order if p[i] >= YES]
    return found


def _drawn(values: NDArray[np.float32]) -> dict[str, Any]:
    """A class activation map, in numbers and as a picture."""
    return {
        "values": [[round(float(value), 4) for value in row] for row in values],
        "overlay": pictures.data_url(Image.fromarray(overlay(values)), "PNG"),
    }
