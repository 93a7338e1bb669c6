# The server in a container, from a checkout:
#   docker build --file docker/server.Dockerfile --tag bertwright-server .
#   docker run --publish 8000:8000 --volume "$PWD/runs/demo:/model:ro" bertwright-server
# This file was linted with hadolint. It was not built: the tests run without a container engine.
FROM python:3.13-slim
COPY constraints.txt pyproject.toml README.md LICENSE /source/
COPY src /source/src
# PyTorch's build for CPUs is a tenth of the one for GPUs.
RUN pip install --no-cache-dir --constraint /source/constraints.txt \
    --extra-index-url https://download.pytorch.org/whl/cpu '/source[serve,onnx]' \
 && useradd --create-home --uid 1000 server
USER 1000
EXPOSE 8000
CMD ["bertwright", "serve", "/model", "--host", "0.0.0.0", "--port", "8000"]
