# docker build -t edgesmith .
# mkdir -p artifacts && docker run --rm --user "$(id -u)" -v "$PWD/artifacts:/edgesmith/artifacts" edgesmith deploy
FROM python:3.11-slim-bookworm

RUN apt-get update \
    && apt-get install --yes --no-install-recommends make git curl ca-certificates openssh-server \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 1000 edgesmith \
    && install --directory --owner edgesmith /edgesmith

USER edgesmith
WORKDIR /edgesmith
ENV PIP_NO_CACHE_DIR=1 PYTHONDONTWRITEBYTECODE=1

# the environment first: it changes less often than the code
COPY --chown=edgesmith pyproject.toml constraints.txt Makefile README.md LICENSE ./
RUN mkdir pipeline calibration targets && make install

COPY --chown=edgesmith . .
RUN touch .venv/.ready

ENTRYPOINT ["make"]
CMD ["deploy"]
