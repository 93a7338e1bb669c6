# The server in a container, from a checkout:
#   docker build --file docker/server.Dockerfile --tag bertwright-server .
#   docker run --publish 8000:8000 --volume "$PWD/runs/demo:/model:ro" bertwright-server
# This file was linted with hadolint. It was not built: the tests run without a container engine.
FROM python:3.13-slim
# The C kernels are compiled for the processor that the container runs on, at its first start; without a compiler PyTorch's
# own operators take about twice as long. Any version of it will do.
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install --yes --no-install-recommends gcc libc6-dev \
 && rm -rf /var/lib/apt/lists/*
COPY constraints.txt pyproject.toml README.md LICENSE /source/
COPY src /source/src
# PyTorch's build for CPUs is a tenth of the one for GPUs.
RUN pip install --no-cache-dir --constraint /source/constraints.txt \
    --extra-index-url https://download.pytorch.org/whl/cpu '/source[serve,onnx]' \
 && useradd --create-home --uid 1000 server
USER 1000
EXPOSE 8000
CMD ["bertwright", "serve", "/model", "--host", "0.0.0.0", "--port", "8000"]
