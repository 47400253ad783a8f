# The command pseudo-masks in a container; docs/install.md shows how to run it.
#   docker build -t pseudo-masks .                                 for CPUs
#   docker build --build-arg TORCH=cuda -t pseudo-masks:cuda .     for NVIDIA's GPUs, which the host's driver runs
#   --build-arg REQUIREMENTS=requirements-page.txt                 with what `pseudo-masks page` needs
ARG PYTHON=3.12

FROM python:${PYTHON}-slim-bookworm AS build
ARG TORCH=cpu
ARG REQUIREMENTS=requirements.txt
RUN pip install --no-cache-dir uv==0.13.8 && uv venv /opt/pseudo-masks
ENV VIRTUAL_ENV=/opt/pseudo-masks UV_NO_CACHE=1
WORKDIR /src
COPY requirements*.txt ./
# PyPI has the build of PyTorch for CUDA, PyTorch's own index the one for CPUs, which is a tenth as large.
RUN if [ "$TORCH" = cpu ]; then export UV_TORCH_BACKEND=cpu; fi; uv pip install -r "$REQUIREMENTS"
COPY . .
RUN uv pip install --no-deps .

FROM python:${PYTHON}-slim-bookworm
COPY --from=build /opt/pseudo-masks /opt/pseudo-masks
# Any user may run it (docker run --user), so caches are for everybody.
RUN useradd --uid 1000 --create-home user && mkdir /work /data /weights /cache && chmod 1777 /work /cache
ENV PATH=/opt/pseudo-masks/bin:$PATH \
    HOME=/cache \
    XDG_CACHE_HOME=/cache \
    NUMBA_CACHE_DIR=/cache/numba \
    TORCHINDUCTOR_CACHE_DIR=/cache/inductor \
    PYTHONUNBUFFERED=1
VOLUME ["/work", "/data", "/weights", "/cache"]
WORKDIR /work
USER 1000
ENTRYPOINT ["pseudo-masks"]
CMD ["--help"]
