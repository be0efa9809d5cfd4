# The server and its page, on SQLite in /data. See docker-compose.yml.
FROM python:3.11-slim-bookworm AS build
WORKDIR /source
COPY . .
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /dist .

FROM python:3.11-slim-bookworm
COPY --from=build /dist /dist
COPY constraints-dev.txt /dist/
RUN pip install --no-cache-dir -c /dist/constraints-dev.txt "$(ls /dist/*.whl)[all]" \
    && rm -r /dist \
    && useradd --uid 10001 --create-home gradhelm \
    && install -d -o gradhelm -m 700 /data
USER gradhelm
ENV GRADHELM_HOME=/data
VOLUME /data
EXPOSE 8642
# To itself it needs no certificate.
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s \
    CMD ["python", "-c", "import os, ssl, urllib.request as r; tls = os.environ.get('GRADHELM_TLS_CERT'); r.urlopen(f'http{\"s\" if tls else \"\"}://127.0.0.1:8642/livez', timeout=2, context=ssl._create_unverified_context() if tls else None)"]
# `up` brings its own database up to date. It binds all of the container's addresses, which it does
# only when GRADHELM_ALLOWED_HOSTS says by which names it is reached, and with a certificate, a
# trusted proxy or --insecure-http: docs/deploying.md.
CMD ["gradhelm", "up", "--no-browser", "--host", "0.0.0.0"]
