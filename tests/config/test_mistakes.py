"""Each mistake once, with the sentence and the line that a person gets for it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.config.reading import GOOD, mistakes, read, with_account, with_route, with_top
from tokenproxy.errors import ConfigError

TYPES = [
    (with_top("[server]", 'lisen = "127.0.0.1:1"'), 'server.lisen: unknown setting. Did you mean "listen"?   line 2'),
    (with_route('prefx = "/a/"'), 'routes.books.prefx: unknown setting. Did you mean "prefix"?   line 9'),
    (with_route('scopes = ["a"]'), "routes.books.scopes: unknown setting here; [accounts.NAME] or [providers.NAME] has it   line 9"),
    (with_top('listen = "127.0.0.1:1"'), "listen: unknown setting here; [server], [forward_auth], [admin] or [metrics] has it   line 1"),
    (with_top("[acounts]"), 'acounts: unknown section. Did you mean "accounts"?   line 1'),
    (with_top("[renew]", 'concurrent = "three"'), 'renew.concurrent: must be a whole number, got "three"   line 2'),
    (with_top("[renew]", "concurrent = 0"), "renew.concurrent: must be at least 1, got 0   line 2"),
    (with_top("[renew]", "concurrent = true"), "renew.concurrent: must be a whole number, got true   line 2"),
    (with_top("[renew]", "per_second = -1.5"), "renew.per_second: must be a number above 0, got -1.5   line 2"),
    (with_top("[log]", "level = 3"), "log.level: must be text in quotes, got 3   line 2"),
    (with_top("[log]", 'level = "inf"'), 'log.level: "inf" is not a level. Did you mean "info"?   line 2'),
    (with_top("[log]", 'access = "some"'), 'log.access: "some" is not a choice. Known: all, off, slow   line 2'),
    (with_top("[server]", 'allow_unauthenticated = "yes"'), 'server.allow_unauthenticated: must be true or false, got "yes"   line 2'),
    (with_top("[server]", 'hosts = "a.example"'), 'server.hosts: must be a list such as ["a", "b"], got "a.example"   line 2'),
    (with_top("[server]", "hosts = ['a.example',", "3]"), "server.hosts[1]: must be text in quotes, got 3   line 3"),
    (with_top("[server]", "listen = []"), "server.listen: must not be empty   line 2"),
    (with_account('vars = "acme"'), 'accounts.books.vars: must be a table such as { name = "value" }, got "acme"   line 5'),
    (with_route('tls = "ca.pem"'), 'routes.books.tls: must be a table such as { name = "value" }, got "ca.pem"   line 9'),
    (with_top("log = 1"), "log: must be a table, got 1   line 1"),
    (with_top("routes = 1").split("[routes")[0], "routes: must hold tables [routes.NAME], got 1   line 1"),
    (with_top("[routes]", "crm = 1"), "routes.crm: must be a table, got 1   line 2"),
    (with_top("[accounts]", '"a b" = {provider="askara", client_id="1", client_secret="literal:x"}'), 'accounts."a b": a name has letters, digits, - and _ only, at most 64   line 2'),
    (with_top("[deadlines]", 'head = "5 m"'), 'deadlines.head: must be a duration such as "30 s", "500 ms", "5 min" or "1 h", or a number of seconds, got "5 m"   line 2'),
    (with_top("[deadlines]", "head = 0"), "deadlines.head: must be more than 0   line 2"),
    (with_top("[deadlines]", "head = nan"), 'deadlines.head: must be a duration such as "30 s", "500 ms", "5 min" or "1 h", or a number of seconds, got nan   line 2'),
    (with_top("[deadlines]", "head = inf"), "deadlines.head: must be between 0 s and 3660 d, got inf   line 2"),
    (with_top("[limits]", 'head = "64 KB"'), 'limits.head: must be a size such as "64 MiB" or "1 KiB" (B, KiB, MiB, GiB), or a whole number of bytes, got "64 KB"   line 2'),
    (with_top("[limits]", "head = inf"), 'limits.head: must be a size such as "64 MiB" or "1 KiB" (B, KiB, MiB, GiB), or a whole number of bytes, got inf   line 2'),
    (with_top("[limits]", "head = 80"), "limits.head: must be at least 4 KiB   line 2"),
    (with_top("[store]", 'cache = "1 KiB"'), "store.cache: must be at least 1 MiB   line 2"),
    (with_top("[replay]", "memory = -1"), "replay.memory: must be between 0 and 1024 GiB, got -1   line 2"),
    (with_account('grant = "authcode"'), 'accounts.books.grant: "authcode" is not a grant. Did you mean "authorization_code"?   line 5'),
    (with_account('scopes = ["a b"]'), 'accounts.books.scopes[0]: must be one scope without spaces; write several as ["first", "second"]   line 5'),
    (GOOD.replace('"cl_pub_1234"', "1234"), "accounts.books.client_id: must be text in quotes, got 1234   line 3"),
    (GOOD.replace("cl_pub_1234", "a\\u0000b"), "accounts.books.client_id: must not hold control characters or line breaks   line 3"),
]  # fmt: skip

MEANING = [
    (GOOD.replace('client_id = "cl_pub_1234"\n', ""), "accounts.books.client_id: is missing: what the provider calls this client   line 1"),
    (GOOD.replace('client_secret = "literal:s3cr3t"\n', ""), 'accounts.books.client_secret: is missing: "deskera" authenticates clients by "basic_raw"; a public client needs client_auth = "none" in [providers.deskera]   line 1'),
    (GOOD.replace('provider = "deskera"\n', ""), "accounts.books.provider: is missing: a preset (tokenproxy presets) or the name of a table [providers.NAME]   line 1"),
    (GOOD.replace("deskera", "deskerra"), 'accounts.books.provider: no provider or preset "deskerra". Did you mean "deskera"?   line 2'),
    (GOOD.replace('upstream = "https://api.example.com"\n', ""), 'routes.books.upstream: is missing: where requests go, such as "https://api.example.com"   line 6'),
    (GOOD.replace('account = "books"\n', ""), "routes.books.account: is missing: whose token this route attaches, the name of a table [accounts.NAME]   line 6"),
    (GOOD.replace('account = "books"', 'account = "boks"'), 'routes.books.account: no account "boks". Did you mean "books"?   line 8'),
    (GOOD.replace('account = "books"', 'account = "books/a b"'), 'routes.books.account: must be NAME, NAME/SUB or "NAME/{header:x-user}", got "books/a b"   line 8'),
    (GOOD.replace('account = "books"', 'account = "books/{header:x-user}"'), 'routes.books.account: lets whoever sends the header "x-user" choose the account; name in accounts of [callers.*] which are whose or, if only callers you trust can reach this route, say trust_account_header = true   line 8'),
    (GOOD.replace('account = "books"', 'account = "books/{header:x user}"\ntrust_account_header = true'), 'routes.books.account: "x user" is not a header that can name an account   line 8'),
    (GOOD.split("[routes")[0], "routes: is missing: a table [routes.NAME] with upstream and account"),
    (with_route("[routes.b]", 'prefix = "books"', 'upstream = "https://b"', 'account = "books"'), 'routes.b.prefix: "/books/" is taken by routes.books (line 6)   line 10'),
    (with_route('host = "A.example"', "[routes.b]", 'prefix = "/books"', 'host = "a.example"', 'upstream = "https://b"', 'account = "books"'), 'routes.b.prefix: "/books/" on host "a.example" is taken by routes.books (line 6)   line 11'),
    (with_route('prefix = "/a/../b/"'), 'routes.books.prefix: must be a path such as "/books/", got "/a/../b/"   line 9'),
    (with_route('prefix = "/a?b/"'), 'routes.books.prefix: must be a path such as "/books/", got "/a?b/"   line 9'),
    (with_route('prefix = "/a//b/"'), 'routes.books.prefix: must be a path such as "/books/", got "/a//b/"   line 9'),
    (with_route('host = "a.example:80"'), 'routes.books.host: "a.example:80" must be without a port; a name counts on every port   line 9'),
    (with_route('host = "api.*.example"'), 'routes.books.host: "api.*.example" is not a host name; a star stands at its beginning, as in "*.example.com"   line 9'),
    (with_route('host = "*.exam ple"'), 'routes.books.host: "*.exam ple" is not a host name   line 9'),
    (with_top("[server]", 'hosts = ["*"]'), 'server.hosts[0]: "*" is not a host name; a star stands at its beginning, as in "*.example.com"   line 2'),
    (with_route('origins = ["https://a.example/x"]'), 'routes.books.origins[0]: must be an origin such as "https://intranet.example", without a path, got "https://a.example/x"   line 9'),
    (with_route('origins = ["null"]'), 'routes.books.origins[0]: must be an origin such as "https://intranet.example", without a path, got "null"   line 9'),
    (with_route('pass = ["X-Access-Token"]'), 'routes.books.pass[0]: "X-Access-Token" is where our token goes; the caller\'s never passes   line 9'),
    (with_route('pass = ["cookie", "tokenproxy-key"]'), 'routes.books.pass[1]: "tokenproxy-key" never goes to an upstream   line 9'),
    (with_route('pass = ["a b"]'), 'routes.books.pass[0]: "a b" is not a header\'s name   line 9'),
    (with_route("allow = []"), "routes.books.allow: must not be empty   line 9"),
    (with_route('allow = ["/v2/**"]'), 'routes.books.allow[0]: must be a method and a path such as "GET /v2/**", "GET|POST /users" or "* /users/*"   line 9'),
    (with_route('allow = ["GET /x", "TRACE /x"]'), "routes.books.allow[1]: CONNECT and TRACE are for no route   line 9"),
    (with_route('allow = ["GET /v2**"]'), 'routes.books.allow[0]: has "**" beside other characters; it stands for whole segments, as in "/v2/**"   line 9'),
    (with_route('allow = ["GET /v2?x=*"]'), "routes.books.allow[0]: has a query, which is never looked at   line 9"),
    (with_route('allow = ["GET /v2/%76"]'), "routes.books.allow[0]: can never be met: The path encodes a separator, a control character or what needs no encoding.   line 9"),
    (with_route('request_headers = { set = { "X-Access-Token" = "x" } }'), 'routes.books.request_headers.set.X-Access-Token: "X-Access-Token" is where our token goes, or goes with it   line 9'),
    (with_route('request_headers = { add = { "Host" = "x" } }'), "routes.books.request_headers.add.Host: what the upstream sees as Host is host_header of the route   line 9"),
    (with_route('request_headers = { remove = ["a", "Content_Length"] }'), 'routes.books.request_headers.remove[1]: "Content_Length" belongs to the connection, and cannot be changed   line 9'),
    (with_route('answer_headers = { set = { "Tokenproxy-Error" = "x" } }'), 'routes.books.answer_headers.set.Tokenproxy-Error: "Tokenproxy-Error" belongs to the connection, and cannot be changed   line 9'),
    (with_route('request_headers = { set = { "X-Key" = "env:NOT_THERE" } }'), "routes.books.request_headers.set.X-Key: environment variable NOT_THERE is not set   line 9"),
    (with_route('request_headers = { set = { "X-Key" = "literal:a\tb\u00e9" } }'), "routes.books.request_headers.set.X-Key: holds characters that a header cannot carry; use printable ASCII   line 9"),
    (with_route('request_headers = { set = { "X-Key" = " x" } }'), "routes.books.request_headers.set: must be printable ASCII without spaces around it, as a header's value is   line 9"),
    (with_route('host_header = "a b"'), 'routes.books.host_header: must be a host such as "api.example.com", with a port or not, got "a b"   line 9'),
    (with_route('proxy = "ftp://p"'), 'routes.books.proxy.url: must be a URL such as "https://api.example.com"   line 9'),
    (with_route('proxy = "http://u:hunter2@p:3128"'), "routes.books.proxy.url: must not hold a user name or password; give them as username and password beside it   line 9"),
    (with_route('proxy = "http://p:3128/x"'), "routes.books.proxy.url: must not have a path   line 9"),
    (with_route('proxy = { username = "u" }'), 'routes.books.proxy.url: is missing: the proxy\'s address, such as "http://outgoing.example:3128"   line 9'),
    (with_route('proxy = { url = "http://p:3128", username = "u" }'), "routes.books.proxy.password: is missing: a proxy takes both or neither   line 9"),
    (with_route('proxy = { url = "http://p:3128", username = "a:b", password = "literal:x" }'), "routes.books.proxy.username: must not hold a colon (RFC 7617)   line 9"),
    (with_route("retry = { attempts = 9 }"), "routes.books.retry.attempts: must be at most 5, got 9   line 9"),
    (with_route('retry = { on = ["404"] }'), 'routes.books.retry.on[0]: must be "connect", "reset", "429" or a status of 500 and above such as "503", got "404"   line 9'),
    (with_route('retry = { methods = ["POST"] }'), "routes.books.retry.methods[0]: must be one of GET, HEAD, OPTIONS, PUT or DELETE: what another method does may be done twice   line 9"),
    (with_route('forwarded = "on"'), 'routes.books.forwarded: "on" is not a choice. Known: both, off, rfc7239, x-forwarded   line 9'),
    (with_top("[server]", 'trusted_proxies = ["10.0.0.1/8"]'), 'server.trusted_proxies[0]: must be a network such as "10.0.0.0/8", an address or "unix:", got "10.0.0.1/8"   line 2'),
    (with_route('upgrade = ["web socket"]'), 'routes.books.upgrade[0]: must be a protocol such as "websocket", got "web socket"   line 9'),
    (with_route('upgrade = ["websocket", "H2C"]'), 'routes.books.upgrade[1]: "H2C" carries further requests, which would go past every rule of the route   line 9'),
    (with_route('upgrade = ["HTTP/2.0"]'), 'routes.books.upgrade[0]: "HTTP/2.0" carries further requests, which would go past every rule of the route   line 9'),
    (with_route("connect = true"), "routes.books.connect: needs host: the name that a CONNECT asks for   line 9"),
    (with_route('host = "*.example"', "connect = true"), "routes.books.connect: needs a host without *: a tunnel leads to one upstream   line 10"),
    (with_route('host = "a.example"', "connect = true", "[routes.b]", 'host = "a.example"', 'upstream = "https://b"', "connect = true", 'account = "books"'), "routes.b.connect: a CONNECT to a.example:443 leads to the upstream of routes.books (line 6)   line 14"),
    (with_route('allow = ["GET /x"]', 'host = "a.example"', "connect = true"), "routes.books.connect: and allow exclude each other: nobody sees what is asked in a tunnel   line 11"),
    (with_route('host = "a.example"', 'proxy = "http://p:3128"', "connect = true"), "routes.books.connect: and proxy exclude each other: a tunnel goes straight to the upstream   line 11"),
    (with_route("in_flight = 5000"), "routes.books.in_flight: must be at most limits.in_flight (1024), got 5000   line 9"),
    (GOOD.replace("https://api", "http://api"), "routes.books.upstream: is plain http:// beyond loopback; use https://, or say insecure_http = true   line 7"),
    (GOOD.replace("api.example.com", "u:p@api.example.com"), "routes.books.upstream: must not hold a user name or password   line 7"),
    (GOOD.replace("api.example.com", "api.example.com/?k=v"), "routes.books.upstream: must not have a query   line 7"),
    (GOOD.replace("api.example.com", "api.example.com/#x"), "routes.books.upstream: must not have a fragment   line 7"),
    (GOOD.replace("api.example.com", "api.example.com/a/%2e%2e/b"), 'routes.books.upstream: must not have "." or ".." in its path   line 7'),
    (GOOD.replace("https://api.example.com", "api.example.com"), 'routes.books.upstream: must be a URL such as "https://api.example.com"   line 7'),
    (GOOD.replace("api.example.com", "api.example.com:99999"), 'routes.books.upstream: must be a URL such as "https://api.example.com"   line 7'),
    (GOOD.replace("api.example.com", "b\u00fccher.example"), "routes.books.upstream: has no valid host; names beyond ASCII are written as xn--...   line 7"),
    (GOOD.replace("api.example.com", "a_b.example.com/a b"), "routes.books.upstream: has characters that a URL must percent-encode   line 7"),
    (with_account('vars = { dashboard = "x" }'), 'accounts.books.vars.dashboard: the addresses of "deskera" have nothing to fill   line 5'),
    (with_account().replace("deskera", "perscom"), 'accounts.books.vars.dashboard: is missing: it fills {dashboard} in the addresses of "perscom"   line 1'),
    (with_account('vars = { dashbord = "x", dashboard = "y" }').replace("deskera", "perscom"), 'accounts.books.vars.dashbord: fills nothing in the addresses of "perscom". Did you mean "dashboard"?   line 5'),
    (with_account('vars = { dashboard = "evil.example/x?" }').replace("deskera", "perscom"), 'accounts.books.vars.dashboard: must be a host or a plain word such as "acme.example.com", without https:// or slashes, got "evil.example/x?"   line 5'),
    (with_account('vars = { dashboard = "a:99999" }').replace("deskera", "perscom"), 'accounts.books.vars: authorize_url of "perscom", filled in, must be a URL such as "https://api.example.com"   line 5'),
    (with_top("[server]", 'listen = "0.0.0.0:8080"'), "server.listen: 0.0.0.0:8080 can be reached from other machines: name callers in [callers.*], set keys in [server.caller_auth], or say allow_unauthenticated = true   line 2"),
    (with_top("[server]", 'listen = ["127.0.0.1:8080", "8081"]'), 'server.listen[1]: must be an address such as "127.0.0.1:8080", "[::1]:8080" or "unix:/path", got "8081"   line 2'),
    (with_top("[server]", 'listen = "::1:8080"'), 'server.listen[0]: must be an address such as "127.0.0.1:8080", "[::1]:8080" or "unix:/path", got "::1:8080"   line 2'),
    (with_top("[server]", 'listen = "*:8080"'), 'server.listen[0]: "*" is not a host; every address of this machine is 0.0.0.0   line 2'),
    (with_top("[server]", 'listen = [{ address = "127.0.0.1:1", mode = "0660" }]'), "server.listen[0].mode: is for the file of a Unix socket, unix:/PATH   line 2"),
    (with_top("[server]", 'listen = [{ address = "unix:@a", group = "root" }]'), "server.listen[0].group: is for the file of a Unix socket, unix:/PATH   line 2"),
    (with_top("[server]", 'listen = { address = "unix:a", group = "no-such-group" }'), 'server.listen[0].group: this machine has no group "no-such-group"   line 2'),
    (with_top("[server]", 'listen = [{ address = "unix:a", mode = "0060" }]'), 'server.listen[0].mode: must be a mode such as "0660" that lets us in ourselves, got "0060"   line 2'),
    (with_top("[server]", 'listen = [{ address = "127.0.0.1:1", cert_file = "no.pem" }]'), "server.listen[0].cert_file: no such file: BASE/no.pem   line 2"),
    (with_top("[server]", 'listen = [{ address = "127.0.0.1:1", client_ca_file = "no.pem" }]'), "server.listen[0].client_ca_file: needs cert_file beside it   line 2"),
    (with_top("[server]", 'listen = [{ adress = "127.0.0.1:1" }]'), 'server.listen[0].adress: unknown setting. Did you mean "address"?   line 2'),
    (with_top("[server]", "listen = [1]"), 'server.listen: must hold addresses in quotes, or tables such as { address = "127.0.0.1:8080" }, got 1   line 2'),
    (with_top("[server]", "listen = [{ mode = '0600' }]"), "server.listen[0].address: is missing: where callers come in   line 2"),
    (with_top("[server]", 'listen = "unix:@"'), "server.listen[0]: has no path after unix:   line 2"),
    (with_top("[server]", 'listen = "systemd:a b"'), 'server.listen[0]: must be "systemd:" or "systemd:" and a FileDescriptorName, got "systemd:a b"   line 2'),
    (with_top("[admin]", 'listen = "systemd:"'), 'admin.listen: must be an address such as "127.0.0.1:9100"; only server.listen takes systemd:   line 2'),
    (with_top("[server]", 'listen = "unix:"'), "server.listen[0]: has no path after unix:   line 2"),
    (with_top("[server]", f'listen = "unix:/{"x" * 120}"'), "server.listen[0]: names a Unix socket whose path is longer than 107 bytes   line 2"),
    (with_top("[forward_auth]", 'listen = "unix:fa.sock"'), "forward_auth.routes: is missing: the routes whose tokens may be asked for   line 1"),
    (with_top("[forward_auth]", 'routes = ["books"]'), "forward_auth.listen: is missing: where other proxies ask   line 1"),
    (with_top("[forward_auth]", 'listen = "unix:fa.sock"', 'routes = ["boks"]'), 'forward_auth.routes[0]: there is no route "boks". Did you mean "books"?   line 3'),
    (with_top("[forward_auth]", 'listen = "127.0.0.1:1"', 'routes = ["books"]'), "forward_auth.listen: 127.0.0.1:1 gives tokens to everybody who can connect: use unix:PATH, set client_ca_file, or have callers show who they are ([callers.*], without an empty auth)   line 2"),
    (with_top("[forward_auth]", 'listen = "unix:@fa"', 'routes = ["books"]'), "forward_auth.listen: unix:@fa gives tokens to everybody who can connect: use unix:PATH, set client_ca_file, or have callers show who they are ([callers.*], without an empty auth)   line 2"),
    (with_top("[forward_auth]", 'listen = "systemd:fa"', 'routes = ["books"]'), "forward_auth.listen: must be an address or unix:PATH; only server.listen takes systemd:   line 2"),
    (with_top("[forward_auth]", 'listen = ["unix:a", "unix:a"]', 'routes = ["books"]'), "forward_auth.listen: names unix:BASE/a twice   line 2"),
    (with_top("[forward_auth]", 'listen = [{ mode = "0660" }]', 'routes = ["books"]'), "forward_auth.listen[0].address: is missing: where callers come in   line 2"),
    (with_top("[forward_auth]", 'listen = "unix:a"', 'routes = ["books"]', "[server]", 'listen = "unix:a"'), "forward_auth.listen: unix:BASE/a is taken by another listener of ours   line 2"),
    (with_top("[forward_auth]", 'listen = "unix:a"', 'routes = ["books"]') + "placeholders = true\n", 'forward_auth.routes[0]: "books" has placeholders = true, which only this proxy can replace   line 3'),
    (with_top("[forward_auth]", 'listen = "unix:a"', 'routes = ["books"]') + '[providers.deskera]\ninject = { query = "token" }\n', 'forward_auth.routes[0]: "books" sends its token in the query, and another proxy takes only headers from here   line 3'),
    (with_top("[server]", 'listen = ["localhost:1", "localhost:1"]'), "server.listen: names localhost:1 twice   line 2"),
    (with_top("[server]", 'hosts = ["a.example:80"]'), 'server.hosts[0]: "a.example:80" must be without a port; a name counts on every port   line 2'),
    (with_top("[server.caller_auth]", 'keys = ["literal:caf\u00e9-with-a-good-length"]'), "server.caller_auth.keys[0]: holds a key with characters that a header cannot carry; use printable ASCII   line 2"),
    (with_top("[server]", 'listen = "127.0.0.1:9100"'), "admin.listen: 127.0.0.1:9100 is taken by server.listen"),
    (with_top("[metrics]", 'listen = "0.0.0.0:9100"'), "metrics.listen: 0.0.0.0:9100 is taken by admin.listen, which serves health and metrics already   line 2"),
    (with_top("[metrics]", 'listen = "0.0.0.0:8080"'), "metrics.listen: 0.0.0.0:8080 is taken by server.listen   line 2"),
    (with_top("[admin]", 'token = "literal:short"'), "admin.token: must be 16 or more printable ASCII characters without blanks   line 2"),
    (with_top("[admin]", 'listen = "unix:admin.sock"'), 'admin.listen: must be an address such as "127.0.0.1:9100"; only server.listen takes unix:   line 2'),
    (with_top("[metrics]", 'listen = "unix:m.sock"'), 'metrics.listen: must be an address such as "127.0.0.1:9100"; only server.listen takes unix:   line 2'),
    (with_top("[admin]", 'listen = "0.0.0.0:9100"'), "admin.listen: 0.0.0.0:9100 can be reached from other machines, without TLS: set cert_file, or say insecure_http = true; for health and metrics alone there is [metrics] listen   line 2"),
    (with_top("[admin]", 'cert_file = "no.pem"'), "admin.cert_file: no such file: BASE/no.pem   line 2"),
    (with_top("[admin]", 'client_ca_file = "no.pem"'), "admin.client_ca_file: needs cert_file beside it   line 2"),
    (with_top("[metrics]", 'key_file = "no.pem"'), "metrics.key_file: needs cert_file beside it   line 2"),
    (with_top("[admin]", 'public_url = "http://proxy.example"'), "admin.public_url: is plain http:// beyond loopback; use https://, or say insecure_http = true   line 2"),
    (with_top("[store]", 'url = "tokenproxy.db"'), 'store.url: must name a file, such as "sqlite:tokenproxy.db" or "sqlite:/var/lib/tokenproxy/tokenproxy.db", or a database: postgresql://HOST/DATABASE   line 2'),
    (with_top("[store]", 'url = "sqlite::memory:"'), 'store.url: must name a file, such as "sqlite:tokenproxy.db" or "sqlite:/var/lib/tokenproxy/tokenproxy.db", or a database: postgresql://HOST/DATABASE   line 2'),
    (with_top("[store]", 'key = "tokenproxy.key"'), "store.key[0]: must begin with file:, env:, systemd: or cmd:   line 2"),
    (with_top("[store]", 'key = "literal:AAAA"'), "store.key[0]: must begin with file:, env:, systemd: or cmd:   line 2"),
    (with_top("[replay]", 'dir = "/no/such/place"'), 'replay.dir: no such folder: "/no/such/place"   line 2'),
]  # fmt: skip

ACME = '[providers.acme]\ntoken_url = "https://acme.example/token"\n'

PROVIDERS = [
    (GOOD + ACME + 'proxy = "http://p:3128/x"', "providers.acme.proxy.url: must not have a path   line 11"),
    (GOOD + ACME + 'pkce = "S512"', 'providers.acme.pkce: "S512" is not a code challenge. Known: S256, none, plain   line 11'),
    (GOOD + ACME + 'callback.token = "code=(.+)"', "providers.acme.callback.token: needs a group named token: (?<token>...)   line 11"),
    (GOOD + ACME + 'callback.key = "(?<=a)(?<key>b)"', "providers.acme.callback.key: is no expression that google-re2 takes (invalid perl operator: (?<=)   line 11"),
    (GOOD + ACME + 'callback.mode = "hash"', 'providers.acme.callback.mode: "hash" is not a mode. Known: form_post, fragment, query   line 11'),
    (GOOD + ACME + "dead_when = [{ statuz = 200 }]", 'providers.acme.dead_when[0].statuz: unknown setting. Did you mean "status"?   line 11'),
    (GOOD + ACME + "dead_unless = [{}]", "providers.acme.dead_unless[0]: says nothing: status, header, json or body must be there   line 11"),
    (GOOD + ACME + 'captured_hosts = ["https://x"]', 'providers.acme.captured_hosts[0]: must be a host such as "api.example.com" or "*.example.com", got "https://x"   line 11'),
    (GOOD + ACME + 'inject.headers = { Host = "x" }', 'providers.acme.inject.headers.Host: "Host" cannot carry a token   line 11'),
    (GOOD + ACME + 'inject.header = ""', "providers.acme.inject.header: is empty: name a header, or a query parameter in query   line 11"),
    (GOOD + ACME + 'revoke.url = "nowhere"', 'providers.acme.revoke.url: must be a URL such as "https://api.example.com"   line 11'),
    (GOOD + ACME + 'device_url = "http://idp.example/device"', "providers.acme.device_url: is plain http:// beyond loopback; use https://, or say insecure_http = true   line 11"),
    (GOOD.replace('"deskera"', '"acme"') + ACME + 'client_auth = "private_key_jwt"', 'accounts.books.private_key: is missing: "acme" authenticates clients by "private_key_jwt"; where the key lies, as PEM or JWK   line 1'),
    (GOOD.replace('"deskera"', '"acme"').replace('client_secret = "literal:s3cr3t"\n', "") + ACME + 'client_auth = "mtls"', 'accounts.books.provider: authenticates clients by "mtls": [providers.acme] needs tls.cert_file   line 2'),
    (GOOD + "[providers.acme]\n", "providers.acme.token_url: is missing: where this provider gives out tokens   line 9"),
    (GOOD + ACME + 'token_ulr = "x"', 'providers.acme.token_ulr: unknown setting. Did you mean "token_url"?   line 11'),
    (GOOD + ACME + 'inject = { heder = "x" }', 'providers.acme.inject.heder: unknown setting. Did you mean "header"?   line 11'),
    (GOOD + ACME + 'inject = { value = "Bearer" }', 'providers.acme.inject.value: must hold {access_token}, once, as "Bearer {access_token}"   line 11'),
    (GOOD + ACME + 'inject = { value = "{token}" }', 'providers.acme.inject.value: must hold {access_token}, once, as "Bearer {access_token}"   line 11'),
    (GOOD + ACME + 'inject = { value = "a\\r\\nb: {access_token}" }', "providers.acme.inject.value: must be printable ASCII without spaces around it, as a header's value is   line 11"),
    (GOOD + ACME + 'inject = { header = "Host" }', 'providers.acme.inject.header: "Host" cannot carry a token   line 11'),
    (GOOD + ACME + 'inject = { header = "x token" }', 'providers.acme.inject.header: "x token" is not a header\'s name   line 11'),
    (GOOD + ACME + 'token_headers = { "a b" = "x" }', 'providers.acme.token_headers: "a b" is not a header\'s name   line 11'),
    (GOOD + ACME + 'client_auth = "basicraw"', 'providers.acme.client_auth: "basicraw" is not a way to authenticate. Did you mean "basic_raw"?   line 11'),
    (GOOD + ACME + 'token_body = "xml"', 'providers.acme.token_body: "xml" is not a place for parameters. Known: form, json, query   line 11'),
    (GOOD + ACME + "dead = [200]", "providers.acme.dead[0]: must be at least 400, got 200   line 11"),
    (GOOD + ACME + 'validate = { method = "get", url = "https://a" }', 'providers.acme.validate.method: must be a method such as "GET" or "POST", got "get"   line 11'),
    (GOOD + ACME + 'validate = { url = "ftp://a" }', 'providers.acme.validate.url: must be a URL such as "https://api.example.com"   line 11'),
    (GOOD + ACME.replace("https", "http"), "providers.acme.token_url: is plain http:// beyond loopback; use https://, or say insecure_http = true   line 10"),
    (GOOD + ACME.replace("acme.example/", "{the host}/"), 'providers.acme.token_url: "{the host}" is no placeholder; a name has letters, digits and _   line 10'),
    (GOOD + ACME + 'extends = "deskerra"', 'providers.acme.extends: no provider or preset "deskerra". Did you mean "deskera"?   line 11'),
    (GOOD + ACME + 'extends = "acme"', "providers.acme.extends: goes round in a circle: acme -> acme   line 11"),
    (GOOD + '[providers.perscom]\nextends = "deskera"', 'providers.perscom.extends: "perscom" is a preset, which this table overrides; extend "deskera" under another name   line 10'),
    (GOOD + ACME + 'tls = { ca_file = "/no/ca.pem" }', "providers.acme.tls.ca_file: no such file: /no/ca.pem   line 11"),
    (GOOD + ACME + 'tls = { key_file = "/no/key.pem", cert_file = "/dev/null" }', "providers.acme.tls.cert_file: no such file: /dev/null   line 11"),
]  # fmt: skip

REGISTERED = (
    '[accounts.books]\nprovider = "deskera"\nclient_id = "cl_pub_1234"\nclient_secret = "literal:s3cr3t"\n'
)
ROUTE = '[routes.books]\nupstream = "https://api.example.com"\naccount = "books"\n'
GRANTS = [
    (REGISTERED + 'grant = "password"\nusername = "a"\npassword = "literal:b"\n' + ROUTE, "accounts.books.allow_password: must be true: this grant hands a person's password to a program, and most providers have given it up (RFC 9700 section 2.4)   line 1"),
    (REGISTERED + 'grant = "token_exchange"\nsubject_token_type = "t"\n' + ROUTE, "accounts.books.subject_token: is missing: where the token lies that is exchanged   line 1"),
    (REGISTERED + 'grant = "token_exchange"\nsubject_token_type = "t"\nsubject_token = "file:x"\nactor_token_type = "t"\n' + ROUTE, "accounts.books.actor_token_type: needs actor_token beside it   line 8"),
    (with_account('grant = "device_code"'), 'accounts.books.grant: needs device_url (or issuer) in [providers.deskera], and "deskera" has none   line 5'),
    (with_account('grant = "implicit"'), "accounts.books.allow_implicit: must be true: this grant sends the token itself through the browser, and most providers have given it up (RFC 9700 section 2.1.2)   line 1"),
    (with_account('capture = "a b"'), 'accounts.books.capture: must be a path such as "oauth2/token", got "a b"   line 5'),
    (with_account('claims.sub = "x"'), 'accounts.books.claims: is not used by grant = "authorization_code"; it belongs to grant = "jwt_bearer"   line 5'),
    (with_account('private_key = "env:NOWHERE"'), "accounts.books.private_key: environment variable NOWHERE is not set   line 5"),
    (REGISTERED + 'grant = "jwt_bearer"\n' + ROUTE, "accounts.books.assertion: is missing: where the signed assertion lies; or private_key, with which we sign one ourselves   line 1"),
    (REGISTERED + 'token = "literal:x"\n' + ROUTE, 'accounts.books.token: is not used by grant = "authorization_code"; it belongs to grant = "static", "file" or "command"   line 5'),
    ('[accounts.books]\ngrant = "static"\n' + ROUTE, "accounts.books.token: is missing: where the token lies   line 1"),
    ('[accounts.books]\ngrant = "static"\ntoken = "literal:a b"\n' + ROUTE, "accounts.books.token: is no token: it must be printable ASCII without spaces   line 3"),
    ('[accounts.books]\ngrant = "static"\ntoken = "env:NOT_THERE"\n' + ROUTE, "accounts.books.token: environment variable NOT_THERE is not set   line 3"),
    ('[accounts.books]\ngrant = "static"\ntoken = "literal:x"\nclient_id = "y"\n' + ROUTE, 'accounts.books.client_id: is not used by grant = "static"; it is for grants that ask a token endpoint   line 4'),
    ('[accounts.books]\ngrant = "file"\ntoken = "env:X"\n' + ROUTE, 'accounts.books.token: must be file:... with grant = "file"   line 3'),
    ('[accounts.books]\ngrant = "command"\ntoken = "file:x"\n' + ROUTE, 'accounts.books.token: must be cmd:... with grant = "command"   line 3'),
    (REGISTERED + 'grant = "client_credentials"\n' + ROUTE.replace('"books"\n', '"books/anna"\n'), 'routes.books.account: "books" obtains its tokens by itself (grant "client_credentials") and has no logins below it   line 8'),
]  # fmt: skip

DATABASE = [
    *(
        (with_top("[store]", f'url = "{scheme}://u:hunter2@h/db"'), "store.key: is missing: all replicas need the same one; tokenproxy key new FILE makes it   line 1")
        for scheme in ("postgresql", "postgres")
    ),
    (with_top("[store]", 'url = "postgresql://u:hunter2@/db"', 'key = "env:X"'), "store.url: must name a host: postgresql://USER:PASSWORD@HOST:5432/DATABASE   line 2"),
    *(
        (with_top("[store]", f'url = "postgresql://u:{wrong}@h/db"', 'key = "env:X"'), "store.url: cannot be read: in its credentials, write / # ? and @ as %2F %23 %3F and %40   line 2")
        for wrong in ("12/hunter2", "12#hunter2", "12?hunter2", "hunter@2")
    ),
    (with_top("[store]", 'url = "env:NOT_THERE"', 'key = "env:X"'), "store.url: environment variable NOT_THERE is not set   line 2"),
    (with_top("[store]", 'heartbeat = "11 s"'), "store.heartbeat: must be at most a third of store.lease   line 2"),
    (with_top("[store]", 'lease = "1 s"', 'heartbeat = "300 ms"'), "store.lease: must be at least 2 s   line 2"),
    (with_top("[server]", "reuse_port = true"), "server.reuse_port: needs a store that several processes may have open: store.url = postgresql://...   line 2"),
    (with_top("[store]", 'pooler = "session"'), 'store.pooler: "session" is not a choice. Known: none, transaction   line 2'),
]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "said"), [*TYPES, *MEANING, *PROVIDERS, *GRANTS], ids=lambda each: each[:60]
)
def test_a_mistake_is_told_once_and_in_its_place(text: str, said: str, tmp_path: Path) -> None:
    """One mistake makes one sentence: what follows from it is no news."""
    told = [each.replace(str(tmp_path), "BASE") for each in mistakes(text, tmp_path)]

    assert said in told
    if "key_file" not in text:
        assert told == [said]


@pytest.mark.parametrize(("text", "said"), DATABASE, ids=lambda each: each[:60])
def test_what_replicas_need_is_told(text: str, said: str, tmp_path: Path) -> None:
    """And no sentence quotes an address, which may hold a password."""
    assert mistakes(text, tmp_path) == [said]


def test_a_circle_of_providers_ends(tmp_path: Path) -> None:
    """Both tables are told, and nobody runs in circles."""
    text = GOOD + '[providers.a]\nextends = "b"\n[providers.b]\nextends = "a"\n'

    assert mistakes(text, tmp_path) == [
        "providers.a.extends: goes round in a circle: a -> b -> a   line 10",
        "providers.b.extends: goes round in a circle: b -> a -> b   line 12",
    ]


def test_all_mistakes_come_at_once_and_in_order(tmp_path: Path) -> None:
    """Types, unknown keys and what tables say of each other: one run of ``check`` is enough."""
    text = """\
[server]
retries = "three"
loop = "fast"
[accounts.books]
provider = "deskerra"
grant = "authcode"
client_id = "1"
client_secret = "hunter2"
[routes.crm]
scopez = 1
upstream = "https://user:hunter2@api.example.com"
account = "bookz"
[deadlines]
head = "5 m"
"""

    told = mistakes(text, tmp_path, {"TOKENPROXY_LOG__LEVEL": "loud"})

    assert [line.rpartition(" ")[2] for line in told[:-1]] == [
        "2",
        "3",
        "5",
        "6",
        "8",
        "10",
        "11",
        "12",
        "14",
    ]
    assert told[-1].startswith("TOKENPROXY_LOG__LEVEL: ")
    assert "hunter2" not in "".join(told)


def test_a_secret_in_the_wrong_place_is_not_repeated(tmp_path: Path) -> None:
    """The first thing people do is to paste the secret itself; it must not end in a terminal's scrollback."""
    for value in ('"hunter2"', "['hunter2']", "{ value = 'hunter2' }", '"file:hunter2\\nhunter2"'):
        told = mistakes(GOOD.replace('"literal:s3cr3t"', value), tmp_path)

        assert len(told) == 1
        assert "hunter2" not in told[0]
        assert told[0].endswith("line 4")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "[server\nlisten = 1\n",
            "is not TOML: expected ']' at the end of a table declaration (column 8)   line 1",
        ),
        ("a = 1\na = 2\n", "is not TOML: cannot overwrite a value (column 6)   line 2"),
        ("a = 1\n\nb = \n", "is not TOML: invalid value (column 5)   line 3"),
        ("a = [1,\n2", "is not TOML: unclosed array   line 2"),
        ("a = " + "[" * 5000, "is not TOML: too many brackets within brackets"),
    ],
)
def test_broken_toml_is_one_sentence(text: str, said: str, tmp_path: Path) -> None:
    """Where TOML ends, nothing after it can be judged."""
    assert mistakes(text, tmp_path) == [said]


def test_nothing_at_all_says_what_is_needed(tmp_path: Path) -> None:
    """An empty file is the newcomer's first mistake."""
    assert mistakes("", tmp_path) == [
        "accounts: is missing: a table [accounts.NAME] with provider and client_id",
        "routes: is missing: a table [routes.NAME] with upstream and account",
    ]


def test_the_error_counts_and_names_its_file(tmp_path: Path) -> None:
    """``check`` and ``serve`` print it as it is."""
    with pytest.raises(ConfigError) as refused:
        read(with_top("log = 1"), tmp_path)

    assert str(refused.value) == "config.toml: 1 problem\n  log: must be a table, got 1   line 1"
    assert refused.value.exit_code == 2
