#!/usr/bin/env bash
# Builds llama-bench, llama-mtmd-cli, llama-quantize, llama-perplexity and llama-imatrix of the very llama.cpp that the
# installed llama-cpp-python holds, from its source distribution, into build/llama.cpp/bin. About 8 minutes on 2 cores,
# once.
set -euo pipefail
cd "$(dirname "$0")/.."
python=.venv/bin/python
version=$($python -c 'import importlib.metadata as m; print(m.version("llama-cpp-python"))')
out=build/llama.cpp-$version
if [ -x "$out/bin/llama-mtmd-cli" ] && [ -x "$out/bin/llama-perplexity" ] && [ -x "$out/bin/llama-imatrix" ]; then
    exit 0
fi
mkdir -p "$out/sdist"
if [ ! -d "$out/src" ]; then
    $python -m pip download --quiet --no-deps --no-binary llama-cpp-python \
        --dest "$out/sdist" "llama-cpp-python==$version"
    mkdir -p "$out/src.part"
    tar xzf "$out"/sdist/*.tar.gz -C "$out/src.part" --strip-components=1
    mv "$out/src.part" "$out/src"
fi
# The same options as llama-cpp-python's own build (its CMakeLists.txt), so that speeds can be compared.
cmake -S "$out/src/vendor/llama.cpp" -B "$out" -DCMAKE_BUILD_TYPE=Release -DBUILD_SHARED_LIBS=ON \
    -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_SERVER=OFF -DLLAMA_BUILD_APP=OFF \
    -DLLAMA_BUILD_UI=OFF -DLLAMA_OPENSSL=OFF
cmake --build "$out" --parallel "$(nproc)" \
    --target llama-bench llama-mtmd-cli llama-quantize llama-perplexity llama-imatrix
