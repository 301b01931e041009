# Built without a cache of packages, run without pip of ours, a compiler or a shell. A release pins BASE by digest.
ARG BASE=python:3.11-slim-bookworm

FROM ${BASE} AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python3 -m venv /opt/build && python3 -m venv --without-pip /opt/venv
ENV PATH=/opt/build/bin:$PATH
WORKDIR /src
# The locked packages first, each by its hash: this layer is made anew only when a lock changes.
COPY requirements.lock requirements-build.lock ./
RUN pip install --require-hashes -r requirements-build.lock \
 && pip --python /opt/venv/bin/python install --require-hashes --no-compile -r requirements.lock
COPY pyproject.toml README.md LICENSE ./
COPY docs/config.md ./docs/config.md
COPY tokenproxy ./tokenproxy
# Compiled here, since the root is read-only later, and by content, since times of files do not survive every copy.
RUN pip wheel --no-deps --no-build-isolation -w /wheel . \
 && pip --python /opt/venv/bin/python install --no-deps --no-compile /wheel/*.whl \
 && /opt/venv/bin/python -m compileall -q --invalidation-mode unchecked-hash /opt/venv/lib

FROM ${BASE}
ARG VERSION=""
ARG REVISION=""
LABEL org.opencontainers.image.title="tokenproxy" \
      org.opencontainers.image.description="Attaches live OAuth 2.0 tokens to requests that have none" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
RUN useradd --uid 65532 --no-log-init --no-create-home --shell /usr/sbin/nologin tokenproxy \
 && install -d -o 65532 -g 65532 -m 0700 /var/lib/tokenproxy
COPY --from=build /opt/venv /opt/venv
# No secret: the names only begin with TOKENPROXY.
# hadolint ignore=DL3064
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    TOKENPROXY_CONFIG=/etc/tokenproxy/config.toml \
    TOKENPROXY_STORE__URL=sqlite:/var/lib/tokenproxy/tokenproxy.db \
    TOKENPROXY_STORE__DIR=/var/lib/tokenproxy
USER 65532:65532
WORKDIR /var/lib/tokenproxy
VOLUME /var/lib/tokenproxy
EXPOSE 8080 9100
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=5s CMD ["tokenproxy", "healthcheck"]
ENTRYPOINT ["tokenproxy"]
CMD ["serve"]
