# One image for every service: `step3 serve SERVICE` is the command, docker-compose.yml names it.
FROM python:3.11.11-slim-bookworm

# Where pip looks, for sites with an index of their own or a smaller build of PyTorch.
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL

# g++ builds the CPU kernels; redis-server is found before the one in the Python wheel.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ redis-server \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 10001 step3 \
    && install --directory --owner step3 --group step3 /var/lib/step3

COPY . /app
WORKDIR /app
# The launcher makes /app/.venv, as on any machine; later runs find it current.
RUN PIP_NO_CACHE_DIR=1 ./step3 --help

USER step3
ENV STEP3_HOME=/var/lib/step3
VOLUME /var/lib/step3
ENTRYPOINT ["/app/step3"]
CMD ["--help"]
