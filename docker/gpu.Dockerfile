# GPU image: vLLM's own, which brings CUDA, torch and vLLM as they fit together, and the rest pinned.
#   docker build -f docker/gpu.Dockerfile -t coop-rl:gpu .
# Layers from seldom to often changed: packages are installed before the code is copied.
FROM vllm/vllm-openai:v0.32.0

# DeepSpeed compiles its operators with ninja and g++ at the first start.
RUN apt-get update \
    && apt-get install --no-install-recommends -y g++=4:* ninja-build=1.* git=1:* \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --non-unique --uid 1000 coop

COPY docker/requirements-gpu.txt /opt/coop-rl/requirements-gpu.txt
RUN python3 -m pip install --no-cache-dir --requirement /opt/coop-rl/requirements-gpu.txt

COPY --chown=coop pyproject.toml README.md LICENSE /opt/coop-rl/
COPY --chown=coop coop_rl /opt/coop-rl/coop_rl
COPY --chown=coop configs /opt/coop-rl/configs
RUN python3 -m pip install --no-cache-dir --no-deps --editable /opt/coop-rl

USER 1000
WORKDIR /opt/coop-rl
ENV TORCH_EXTENSIONS_DIR=/tmp/torch_extensions \
    VLLM_NO_USAGE_STATS=1 \
    DO_NOT_TRACK=1
# The base image starts an API server; this one starts what it is told to.
ENTRYPOINT []
CMD ["coop-rl", "--help"]
