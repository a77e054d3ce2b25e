"""`densely serve`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from densely.commands.options import DataDir, WeightsOption, which_weights
from densely.commands.terminal import ended, err, out
from densely.interruption import Interrupted
from densely.serve.limits import Limits


def _limit(text: str, least: float, most: float) -> Any:
    return typer.Option(min=least, max=most, help=text, rich_help_panel="Limits")


def serve(
    run_folder: Annotated[
        Path,
        typer.Argument(
            metavar="RUN|MODEL",
            help="A run folder, a .safetensors file, an .onnx file of densely export, or cifar10, which comes with "
            "Densely.",
        ),
    ],
    host: Annotated[str, typer.Option(help="Where to listen; 0.0.0.0 lets other machines in.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Where to listen; 0: any that is free.")] = 8000,
    token: Annotated[
        str | None,
        typer.Option(
            help="Word that clients must show.", envvar="DENSELY_TOKEN", show_default="none", show_envvar=True
        ),
    ] = None,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="A proxy's name for this server, where only this machine is let in; may be repeated.",
            show_default="none",
        ),
    ] = None,
    weights: WeightsOption = "final",
    samples: Annotated[
        Path | None, typer.Option(help="A folder of images that the page offers.", show_default="a run's test images")
    ] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, max=1024, help="Threads that compute a batch.", show_default="one a core")
    ] = None,
    max_batch: Annotated[int, _limit("Images answered together.", 1, 1024)] = Limits.batch,
    max_queue: Annotated[int, _limit("Images that may wait; at least --max-images.", 1, 100_000)] = Limits.queue,
    max_requests: Annotated[int, _limit("Requests at work at one time.", 1, 10_000)] = Limits.requests,
    max_connections: Annotated[int, _limit("Connections open at one time.", 1, 100_000)] = Limits.connections,
    max_images: Annotated[int, _limit("Images a request.", 1, 10_000)] = Limits.images,
    max_megabytes: Annotated[float, _limit("Of a request's body.", 0.001, 1024)] = Limits.body // 2**20,
    max_megapixels: Annotated[float, _limit("Of an image.", 0.001, 64)] = Limits.pixels // 10**6,
    head_timeout: Annotated[float, _limit("Seconds for a request's head.", 0.1, 3600)] = Limits.head_seconds,
    body_timeout: Annotated[float, _limit("Seconds for its body.", 0.1, 3600)] = Limits.body_seconds,
    answer_timeout: Annotated[float, _limit("Seconds for the answer.", 0.1, 3600)] = Limits.answer_seconds,
    data_dir: DataDir = None,
) -> None:
    """Serve a trained network over HTTP, with a page to try it."""
    from densely import serve as serving

    serving.check()
    chosen = which_weights(weights)
    from densely.serve.server import serve as run

    limits = Limits(
        body=round(max_megabytes * 2**20),
        pixels=round(max_megapixels * 1e6),
        images=max_images,
        requests=max_requests,
        held=max(Limits.held, 2 * round(max_megabytes * 2**20)),
        queue=max(max_queue, max_images),
        batch=max_batch,
        connections=max_connections,
        head_seconds=head_timeout,
        body_seconds=body_timeout,
        answer_seconds=answer_timeout,
    )
    try:
        run(
            run_folder,
            host=host,
            port=port,
            token=token,
            allowed=allow_host or (),
            limits=limits,
            threads=threads,
            weights=chosen,
            samples=samples,
            data_dir=data_dir,
            out=out,
            err=err,
        )
    except Interrupted as stop:  # before it served
        raise ended(stop) from None
