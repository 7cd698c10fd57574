# One image for CPUs and GPUs: torch from the package registry serves both.
#
#   docker build -t arinar_lab .
#   recipes=/arinar_lab/experiments
#   docker run --rm -it -v "$PWD/work:/work" arinar_lab ablate $recipes/ablations/gmm_k.yaml
#   docker run --rm -it --gpus all -v "$PWD/work:/work" arinar_lab train $recipes/digits.yaml
ARG PYTHON=3.12
FROM python:${PYTHON}-slim
RUN apt-get update \
 && apt-get install -y --no-install-recommends git make g++ \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /arinar_lab
COPY pyproject.toml requirements.lock README.md LICENSE ./
RUN pip install --no-cache-dir uv && uv pip install --system --no-cache -r requirements.lock
COPY . .
RUN uv pip install --system --no-cache --no-deps -e .
WORKDIR /work
ENTRYPOINT ["arinar"]
CMD ["--help"]
