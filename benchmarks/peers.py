"""
The proxies that are compared: what each is told, in its own words, and how it is started.

Every one takes requests below ``/bench/``, strips that, sends them on over kept-alive connections and sets a credential.
Each is set up as its own guide wants it for production or for a benchmark (README.md says which), with one worker.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.parts import BEST_LOOP, TOKEN

CALLERS: Final = 12_000
"""Connections that each has room for."""


SEARCHED: Final = f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin"


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a proxy listens and where it sends requests."""

    folder: Path
    port: int
    admin: int
    """For the proxy's metrics."""
    upstream: int
    ca: Path | None = None
    """Whom to trust; then the upstream speaks TLS, as ``localhost``."""
    loop: str = BEST_LOOP

    @property
    def target(self) -> str:
        return f"https://localhost:{self.upstream}" if self.ca else f"http://127.0.0.1:{self.upstream}"

    def write(self, name: str, text: str) -> str:
        (self.folder / name).write_text(text)
        return str(self.folder / name)


@dataclass(frozen=True, slots=True)
class Peer:
    title: str
    program: str
    """What must be on PATH; empty: nothing."""
    prepare: Callable[[Place], list[str]]
    """Writes the configuration; the words to start it with, behind the program's path."""
    metrics: str
    """Where its numbers are, on ``Place.admin``; empty: it has none."""
    version: tuple[str, ...] = ("--version",)

    def path(self) -> str | None:
        """Of its program; None: not installed."""
        if not self.program:
            return sys.executable
        beside = Path(sys.executable).with_name(self.program)
        return str(beside) if beside.exists() else shutil.which(self.program, path=SEARCHED)

    def says_version(self, path: str) -> str:
        said = subprocess.run([path, *self.version], capture_output=True, text=True, check=False)
        found = re.search(r"\d+\.\d+(\.\d+)?", said.stdout + said.stderr)
        return found[0] if found else "unknown"


ROUTES: Final = 20
TOKENPROXY: Final = """
[server]
listen = "127.0.0.1:{port}"
[admin]
listen = "127.0.0.1:{admin}"
[log]
level = "error"
[limits]
connections = {callers}
[deadlines]
keep_alive = "10 min"
[providers.bench]
token_url = "http://127.0.0.1:9/token"
client_auth = "none"
[accounts.bench]
provider = "bench"
client_id = "bench"
[routes.bench]
upstream = "{target}"
account = "bench"
allow = ["GET /v2/items/**", "POST /v2/items/**", "GET /v2/users/*/orders"]
{tls}
"""
OTHER_ROUTE: Final = """
[routes.other{number}]
prefix = "/other/{number}/"
upstream = "{target}"
account = "bench"
"""


def tokenproxy(place: Place) -> list[str]:
    """The product as ``serve`` runs it: store, renewal, scheduler, metrics, deadlines, a table of routes, allow lists."""
    text = TOKENPROXY.format(
        port=place.port,
        admin=place.admin,
        target=place.target,
        callers=CALLERS,
        tls=f'tls = {{ ca_file = "{place.ca}" }}' if place.ca else "",
    )
    text += "".join(OTHER_ROUTE.format(number=n, target=place.target) for n in range(ROUTES))
    config = place.write("config.toml", text)
    subprocess.run(
        [sys.executable, "-m", "tokenproxy", "import", "bench", "--config", config],
        input=f'{{"access_token": "{TOKEN}"}}',
        text=True,
        check=True,
        capture_output=True,
    )
    return ["-m", "tokenproxy", "serve", "--config", config]


def plain(place: Place) -> list[str]:
    words = [
        "-m",
        "benchmarks.parts",
        "plain",
        str(place.port),
        "--target",
        place.target,
        "--loop",
        place.loop,
    ]
    return [*words, "--ca", str(place.ca)] if place.ca else words


NGINX: Final = """
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/error.log error;
worker_processes 1;
worker_rlimit_nofile 20000;
events {{ worker_connections 16384; }}
http {{
  access_log off;
  server_tokens off;
  tcp_nodelay on;
  keepalive_timeout 10m;
  keepalive_requests 100000000;
  client_max_body_size 0;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  upstream api {{
    server 127.0.0.1:{upstream};
    keepalive 512;
    keepalive_requests 100000000;
    keepalive_timeout 10m;
  }}
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    location /bench/ {{
      proxy_pass {scheme}://api/;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_set_header Authorization "Bearer {token}";
      proxy_request_buffering off;
      proxy_max_temp_file_size 0;
      {tls}
    }}
  }}
  server {{
    listen 127.0.0.1:{admin};
    location /metrics {{ stub_status; }}
  }}
}}
"""
NGINX_TLS: Final = """
      proxy_ssl_verify on;
      proxy_ssl_trusted_certificate {ca};
      proxy_ssl_name localhost;
      proxy_ssl_server_name on;
      proxy_ssl_protocols TLSv1.2 TLSv1.3;
"""


def nginx(place: Place) -> list[str]:
    text = NGINX.format(
        folder=place.folder,
        upstream=place.upstream,
        port=place.port,
        admin=place.admin,
        token=TOKEN,
        scheme="https" if place.ca else "http",
        tls=NGINX_TLS.format(ca=place.ca) if place.ca else "",
    )
    return ["-p", str(place.folder), "-e", "stderr", "-c", place.write("nginx.conf", text)]


HAPROXY: Final = """
global
  nbthread 1
  maxconn {callers}
  no strict-limits
defaults
  mode http
  timeout connect 5s
  timeout client 10m
  timeout server 10m
  timeout http-keep-alive 10m
  option http-keep-alive
  http-reuse always
frontend callers
  bind 127.0.0.1:{port} backlog 4096
  use_backend api if {{ path_beg /bench/ }}
backend api
  http-request replace-path /bench/(.*) /\\1
  http-request set-header Authorization "Bearer {token}"
  server one 127.0.0.1:{upstream} {tls}
frontend metrics
  bind 127.0.0.1:{admin}
  http-request use-service prometheus-exporter if {{ path /metrics }}
"""


def haproxy(place: Place) -> list[str]:
    tls = (
        f"ssl verify required ca-file {place.ca} sni str(localhost) verifyhost localhost" if place.ca else ""
    )
    text = HAPROXY.format(
        port=place.port, admin=place.admin, upstream=place.upstream, token=TOKEN, callers=CALLERS, tls=tls
    )
    return ["-q", "-db", "-f", place.write("haproxy.cfg", text)]


CADDY: Final = """
{{
  admin 127.0.0.1:{admin}
  auto_https off
  log {{
    level ERROR
  }}
}}
http://:{port} {{
  bind 127.0.0.1
  handle_path /bench/* {{
    reverse_proxy {target} {{
      header_up Authorization "Bearer {token}"
      transport http {{
        keepalive 10m
        keepalive_idle_conns_per_host 512
        compression off
        {tls}
      }}
    }}
  }}
}}
"""


def caddy(place: Place) -> list[str]:
    tls = f"tls_trusted_ca_certs {place.ca}\ntls_server_name localhost" if place.ca else ""
    text = CADDY.format(port=place.port, admin=place.admin, target=place.target, token=TOKEN, tls=tls)
    return ["run", "--adapter", "caddyfile", "--config", place.write("Caddyfile", text)]


ENVOY: Final = """
node: {{ id: bench, cluster: bench }}
admin:
  address: {{ socket_address: {{ address: 127.0.0.1, port_value: {admin} }} }}
static_resources:
  listeners:
  - name: callers
    address: {{ socket_address: {{ address: 127.0.0.1, port_value: {port} }} }}
    tcp_backlog_size: 4096
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: callers
          generate_request_id: false
          route_config:
            virtual_hosts:
            - name: all
              domains: ["*"]
              routes:
              - match: {{ prefix: "/bench/" }}
                route: {{ cluster: api, prefix_rewrite: "/", timeout: 0s }}
          http_filters:
          - name: envoy.filters.http.credential_injector
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.filters.http.credential_injector.v3.CredentialInjector
              overwrite: true
              credential:
                name: envoy.http.injected_credentials.generic
                typed_config:
                  "@type": type.googleapis.com/envoy.extensions.http.injected_credentials.generic.v3.Generic
                  credential:
                    name: token
                    sds_config: {{ path_config_source: {{ path: {secret} }} }}
                  header: Authorization
          - name: envoy.filters.http.router
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router
  clusters:
  - name: api
    type: STATIC
    connect_timeout: 5s
    circuit_breakers:
      thresholds:
      - {{ max_connections: 100000, max_pending_requests: 100000, max_requests: 100000 }}
    load_assignment:
      cluster_name: api
      endpoints:
      - lb_endpoints:
        - endpoint:
            address: {{ socket_address: {{ address: 127.0.0.1, port_value: {upstream} }} }}
{tls}
"""
ENVOY_TLS: Final = """
    transport_socket:
      name: envoy.transport_sockets.tls
      typed_config:
        "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext
        sni: localhost
        common_tls_context:
          tls_params: {{ tls_maximum_protocol_version: TLSv1_3 }}
          validation_context:
            trusted_ca: {{ filename: {ca} }}
            match_typed_subject_alt_names:
            - {{ san_type: DNS, matcher: {{ exact: localhost }} }}
"""
ENVOY_SECRET: Final = """
resources:
- "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret
  name: token
  generic_secret:
    secret: {{ inline_string: "Bearer {token}" }}
"""


def envoy(place: Place) -> list[str]:
    text = ENVOY.format(
        admin=place.admin,
        port=place.port,
        upstream=place.upstream,
        secret=place.write("secret.yaml", ENVOY_SECRET.format(token=TOKEN)),
        tls=ENVOY_TLS.format(ca=place.ca) if place.ca else "",
    )
    words = ["-c", place.write("envoy.yaml", text), "--concurrency", "1"]
    return [*words, "--disable-hot-restart", "-l", "error"]


PEERS: Final = {
    "tokenproxy": Peer("tokenproxy", "", tokenproxy, "/metrics"),
    "envoy": Peer("Envoy, credential_injector", "envoy", envoy, "/stats/prometheus"),
    "nginx": Peer("nginx", "nginx", nginx, "/metrics", ("-v",)),
    "haproxy": Peer("HAProxy", "haproxy", haproxy, "/metrics", ("-v",)),
    "caddy": Peer("Caddy", "caddy", caddy, "/metrics", ("version",)),
    "plain": Peer("plain aiohttp", "", plain, ""),
}
