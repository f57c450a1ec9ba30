# The app as a container: for the CPU, or with --build-arg ACCELERATOR=cuda for NVIDIA GPUs. The build needs no GPU.
# A Hugging Face Space passes its variables as build arguments: docs/operate/spaces.md.
ARG ACCELERATOR=cpu

FROM ubuntu:24.04 AS build-cpu
ENV LLAMA_WHEELS=https://abetlen.github.io/llama-cpp-python/whl/cpu \
    CUDA_ARGS=""

# T4 75, A100 80, A10G 86, L4 and L40S 89, H100 90; newer GPUs compile the code for 90 when they first load it.
# Only a machine with a GPU has the driver's libcuda.so.1, so the linker may leave it unresolved.
FROM nvidia/cuda:12.6.3-devel-ubuntu24.04 AS build-cuda
ENV LLAMA_WHEELS=https://abetlen.github.io/llama-cpp-python/whl/cu124 \
    CUDA_ARGS="-DGGML_CUDA=ON -DCMAKE_CUDA_ARCHITECTURES=75-real;80-real;86-real;89-real;90 -DCMAKE_EXE_LINKER_FLAGS=-Wl,--allow-shlib-undefined"

# hadolint ignore=DL3006
FROM build-${ACCELERATOR} AS build
# Ubuntu's mirrors keep only the newest version of a package, so no version can be pinned.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends build-essential ca-certificates python3-dev python3-venv \
    && rm -rf /var/lib/apt/lists/* \
    && python3 -m venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1
# A prebuilt wheel where there is one, else compiled: 10 minutes on 2 cores, for CUDA much longer. The wheels for CUDA
# have neither AVX2 nor OpenMP, so what runs on the CPU is slower; PIP_NO_BINARY=llama-cpp-python compiles in any case.
ARG PIP_NO_BINARY
ARG CMAKE_BUILD_PARALLEL_LEVEL
# GGML_NATIVE would compile for the processor that happens to build. Off, it leaves the other four on, unless
# SOURCE_DATE_EPOCH is set, as for reproducible images; so they are named. Several variants to choose from at the start
# (GGML_CPU_ALL_VARIANTS) would be better, but llama-cpp-python does not install them.
ENV CMAKE_ARGS="-DGGML_NATIVE=OFF -DGGML_AVX2=ON -DGGML_FMA=ON -DGGML_F16C=ON -DGGML_BMI2=ON $CUDA_ARGS"
RUN pip install --prefer-binary --extra-index-url "$LLAMA_WHEELS" "llama-cpp-python>=0.3.36,<0.4"
WORKDIR /src
COPY pyproject.toml ./
RUN python -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['dependencies'], sep='\n')" \
        > requirements.txt \
    && pip install -r requirements.txt
COPY LICENSE README.md ./
COPY presets presets
COPY studies studies
COPY suites suites
COPY playground playground
RUN pip install --no-deps .

FROM ubuntu:24.04 AS run-cpu
FROM nvidia/cuda:12.6.3-runtime-ubuntu24.04 AS run-cuda

# hadolint ignore=DL3006
FROM run-${ACCELERATOR}
# Ubuntu's image has a user 1000 already.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates libgomp1 python3 \
    && rm -rf /var/lib/apt/lists/* \
    && userdel --remove ubuntu \
    && useradd --create-home --uid 1000 user
COPY --from=build /opt/venv /opt/venv
WORKDIR /home/user/app
COPY app.py ./
USER 1000
ENV HOME=/home/user \
    PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    GRADIO_SERVER_NAME=0.0.0.0 \
    GRADIO_SERVER_PORT=7860 \
    GRADIO_TEMP_DIR=/home/user/.cache/gradio \
    HF_HOME=/home/user/.cache/huggingface \
    PLAYGROUND_CACHE_DIR=/home/user/.cache/vlm-quant-playground
# A new Docker volume takes its owner from the folder that it is mounted on.
RUN mkdir -p "$GRADIO_TEMP_DIR" "$HF_HOME" "$PLAYGROUND_CACHE_DIR"
EXPOSE 7860
HEALTHCHECK --start-period=2m --timeout=10s CMD ["python", "-c", "import os, urllib.request; urllib.request.urlopen(f\"http://127.0.0.1:{os.environ['GRADIO_SERVER_PORT']}/health\", timeout=5)"]
CMD ["python", "app.py"]
