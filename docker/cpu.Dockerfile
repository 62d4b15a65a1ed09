# CPU image, for trying things out and for nodes that only judge or drive: the versions CI runs with.
#   docker build -f docker/cpu.Dockerfile -t coop-rl:cpu .
FROM python:3.11.14-slim-bookworm

# g++: vLLM engines compile at their start. libnuma: vLLM.
RUN apt-get update \
    && apt-get install --no-install-recommends -y g++=4:12.* libnuma1=2.* \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --non-unique --uid 1000 coop

COPY .ci/requirements-cpu.lock /opt/coop-rl/requirements.lock
RUN python3 -m pip install --no-cache-dir --no-deps --requirement /opt/coop-rl/requirements.lock \
    --extra-index-url https://download.pytorch.org/whl/cpu

COPY --chown=coop pyproject.toml README.md LICENSE /opt/coop-rl/
COPY --chown=coop coop_rl /opt/coop-rl/coop_rl
COPY --chown=coop configs /opt/coop-rl/configs
RUN python3 -m pip install --no-cache-dir --no-deps --editable /opt/coop-rl

USER 1000
WORKDIR /opt/coop-rl
ENV TORCH_EXTENSIONS_DIR=/tmp/torch_extensions \
    VLLM_NO_USAGE_STATS=1 \
    DO_NOT_TRACK=1
CMD ["coop-rl", "--help"]
