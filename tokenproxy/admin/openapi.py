"""
The admin API as an OpenAPI 3.1 document: ``GET /api/openapi.json``. Imported when somebody asks for it.

docs/admin-api.md says the same in words. A test compares the paths with those that the listeners really have, and
schemathesis drives a running program by it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from tokenproxy import __version__
from tokenproxy.admin.landing import LONGEST_ADDRESS
from tokenproxy.core.placeholders import LONGEST_PATH, LONGEST_VALUE

Schema = dict[str, Any]

_JSON: Final = "application/json"
_PROBLEM: Final = "application/problem+json"
_HTML: Final = "text/html"


def document(*, socket: bool) -> dict[str, Any]:
    """What the Unix socket has, or the admin listener."""
    paths = _SHARED_PATHS | (_SOCKET_PATHS if socket else _BROWSER_PATHS)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "The admin API of tokenproxy",
            "version": __version__,
            "license": {"name": "MIT", "identifier": "MIT"},
            "description": "What operators, probes and programs can ask of a running tokenproxy. No answer carries a "
            "token, a secret or a key, except what an application put into state to read it back. Over TCP, what "
            "changes anything needs the admin token, and so do logins and state, and reading where admin.listen is not on "
            "loopback; the Unix socket needs none.",
        },
        "servers": [{"url": "/"}],
        "paths": paths if not socket else {path: _without_token(each) for path, each in paths.items()},
        "components": {
            "schemas": _SCHEMAS,
            "parameters": _PARAMETERS,
            "responses": _RESPONSES,
            "securitySchemes": {
                "adminToken": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "What admin.token of the config names, else what is in the file "
                    "tokenproxy.db.admin-token beside the store.",
                }
            },
        },
    }


def _without_token(path: Mapping[str, Any]) -> dict[str, Any]:
    found = {}
    for method, each in path.items():
        if isinstance(each, dict):
            answers = {status: said for status, said in each["responses"].items() if status != "401"}
            found[method] = each | {"security": [], "responses": answers}
        else:
            found[method] = each
    return found


# -- how the tables below are written ----------------------------------------------------------------------------------


def _schema(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _response(name: str) -> Schema:
    return {"$ref": f"#/components/responses/{name}"}


def _parameter(name: str) -> Schema:
    return {"$ref": f"#/components/parameters/{name}"}


def _object(members: Schema, *, needed: list[str] | None = None, more: bool = False) -> Schema:
    """``needed``: all members, unless it is given; ``more``: others may come, in a later version."""
    return {
        "type": "object",
        "properties": members,
        "required": list(members) if needed is None else needed,
        **({} if more else {"additionalProperties": False}),
    }


def _list(of: Schema) -> Schema:
    return {"type": "array", "items": of}


def _text(description: str, **more: Any) -> Schema:
    return {"type": "string", "description": description, **more}


def _answer(description: str, schema: Schema, **more: Any) -> Schema:
    return {"description": description, "content": {_JSON: {"schema": schema}}, **more}


def _problem(description: str, **more: Any) -> Schema:
    return {"description": description, "content": {_PROBLEM: {"schema": _schema("Problem")}}, **more}


def _page(description: str, *also: str) -> Schema:
    """In HTML; ``also``: other types that it may come in."""
    schemas = {_HTML: _TEXT, _PROBLEM: _schema("Problem"), _JSON: _schema("Landing")}
    return {
        "description": description,
        "content": {kind: {"schema": schemas[kind]} for kind in (_HTML, *also)},
    }


def _body(schema: Schema, description: str = "", **types: Schema) -> Schema:
    content = {_JSON: {"schema": schema}} | {
        kind.replace("_", "/"): {"schema": each} for kind, each in types.items()
    }
    return {"required": True, "content": content, **({"description": description} if description else {})}


def _query(name: str, schema: Schema, description: str) -> Schema:
    return {"name": name, "in": "query", "required": False, "description": description, "schema": schema}


def _path(name: str, schema: Schema, description: str) -> Schema:
    return {"name": name, "in": "path", "required": True, "description": description, "schema": schema}


def _call(
    name: str,
    summary: str,
    answers: Schema,
    *,
    token: bool = False,
    body: Schema | None = None,
    query: list[Schema] | None = None,
) -> Schema:
    """One method of a path; ``token``: over TCP it needs the admin token."""
    found = answers | {each: _response(each) for each in ("400", "403", "500")}
    if token:
        found["401"] = _response("401")
    if body is not None:
        found |= {each: _response(each) for each in ("408", "413", "415")}
    return {
        "operationId": name,
        "summary": summary,
        "security": [{"adminToken": []}] if token else [],
        **({"parameters": query} if query else {}),
        **({"requestBody": body} if body is not None else {}),
        "responses": dict(sorted(found.items())),
    }


def _probe(name: str, summary: str) -> Schema:
    both = {"text/plain": {"schema": _TEXT}, _JSON: {"schema": _schema("Verdict")}}
    answers = {
        "200": {"description": "Yes.", "content": both},
        "503": {"description": "No: a line for each reason.", "content": both},
    }
    return {"get": _call(name, summary, answers)}


def _landing(name: str, *parameters: Schema) -> Schema:
    """A callback address, with GET and POST."""
    get = _call(f"{name}", "Where a browser comes back to", {})
    post = _call(
        f"{name}Posted", "The same, from a provider that posts, or from our page with a fragment", {}
    )
    for call, also in ((get, (_PROBLEM,)), (post, (_PROBLEM, _JSON))):
        call["responses"] = {
            "200": _page("It succeeded, has a question, or the page hands a fragment over.", *also[1:]),
            "303": _SEE_OTHER,
            "400": _page("It ends no login, or the request makes no sense.", *also),
            "403": _page("It belongs to another browser, or the request to another site.", *also),
            "404": _response("404"),
            "409": _page("The config has changed meanwhile.", *also[1:]),
            "413": _page("It is too long.", *also),
            "500": _response("500"),
            "502": _page("The provider cannot be used.", *also[1:]),
            "503": _page("The store did not take what came.", *also[1:]),
        }
    post["responses"] |= {each: _page("As elsewhere.", _PROBLEM, _JSON) for each in ("408", "415")}
    form = {"type": "object", "description": "The provider's answer."}
    post["requestBody"] = _body(_schema("Landed"))
    post["requestBody"]["content"]["application/x-www-form-urlencoded"] = {"schema": form}
    return {**({"parameters": list(parameters)} if parameters else {}), "get": get, "post": post}


_TEXT: Final[Schema] = {"type": "string"}
_COUNT: Final[Schema] = {"type": "integer", "minimum": 0}
_FLAG: Final[Schema] = {"type": "boolean"}
_TIME: Final[Schema] = {"type": "string", "format": "date-time"}
_TIME_OR_NULL: Final[Schema] = {"type": ["string", "null"], "format": "date-time"}
_TEXT_OR_NULL: Final[Schema] = {"type": ["string", "null"]}
_COUNTS: Final[Schema] = {"type": "object", "additionalProperties": _COUNT}
_TEXTS: Final[Schema] = {"type": "object", "additionalProperties": _TEXT}
_LOCATION: Final[Schema] = {"required": True, "schema": {"type": "string", "format": "uri-reference"}}
_SEE_OTHER: Final[Schema] = {"description": "Go on there.", "headers": {"Location": _LOCATION}}
_ANY_JSON: Final = _body({}, "Whatever it is: the content type says that no form of another site sent it.")

# -- what is said ------------------------------------------------------------------------------------------------------

_SCHEMAS: Final[Schema] = {
    "AccountName": {
        "type": "string",
        "pattern": "^[A-Za-z0-9_-]{1,64}(/[A-Za-z0-9._@-]{1,128})?$",
        "examples": ["books", "books/anna"],
    },
    "Path": {
        "type": "string",
        "pattern": "^[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)*$",
        "maxLength": LONGEST_PATH,
        "examples": ["oauth2/token"],
    },
    "Account": _object(
        {
            "account": _schema("AccountName"),
            "provider": _TEXT,
            "grant": _TEXT,
            "state": {"enum": ["new", "ok", "degraded", "login_required", "misconfigured", "in_doubt"]},
            "reason": _text("Why, from a closed list; empty where all is well."),
            "detail": _text("A sentence."),
            "next_step": _text("The one command for a person, or empty."),
            "generation": _COUNT,
            "live": _FLAG | {"description": "There is a token that may be sent."},
            "renewable": {
                "type": ["boolean", "null"],
                "description": "Whether it can be renewed without a person; null while the tokens are only on disk.",
            },
            "in_flight": _FLAG | {"description": "A renewal is under way."},
            "unstored": _FLAG | {"description": "The newest tokens are in memory only."},
            "identity": _TEXT_OR_NULL,
            "scope": _TEXT_OR_NULL,
            "expires_at": _TIME_OR_NULL,
            "refresh_expires_at": _TIME_OR_NULL,
            "renewed_at": _TIME_OR_NULL,
            "since": _TIME_OR_NULL,
            "retry_at": _TIME_OR_NULL,
        },
        more=True,
    ),
    "Overview": _object({"total": _COUNT, "states": _COUNTS, "accounts": _list(_schema("Account"))}),
    "StateValue": _object(
        {"path": _schema("Path"), "value": _TEXT, "expires_at": _TIME_OR_NULL, "backend": _FLAG},
        needed=["path", "expires_at", "backend"],
    ),
    "NewStateValue": _object(
        {
            "value": _text("64 KiB at most in UTF-8.", maxLength=LONGEST_VALUE),
            "expires_at": _TIME_OR_NULL
            | {"description": "With its zone; from then on the value is not there."},
            "backend": _FLAG
            | {"default": False, "description": "It may be used by naming it, and is never given back."},
        },
        needed=["value"],
    ),
    "NewLogin": _object(
        {
            "account": _schema("AccountName"),
            "return_to": _TEXT_OR_NULL
            | {"description": "Where the browser goes on to: below public_url or one of admin.return_to."},
            "device": _FLAG | {"default": False},
            "key": _TEXT_OR_NULL
            | {"pattern": "^[A-Za-z0-9._~-]{16,128}$", "description": "The program's own random state."},
            "replace": _FLAG
            | {"default": False, "description": "Another identity's login is replaced without a question."},
        },
        needed=["account"],
    ),
    "BrowserLogin": _object(
        {
            "id": _TEXT,
            "account": _schema("AccountName"),
            "expires_at": _TIME,
            "authorize_url": _TEXT,
            "callback_url": _TEXT,
            "start_url": _TEXT,
        }
    ),
    "DeviceLogin": _object(
        {
            "id": _TEXT,
            "account": _schema("AccountName"),
            "expires_at": _TIME,
            "user_code": _TEXT,
            "verification_uri": _TEXT,
            "verification_uri_complete": _TEXT,
            "interval": {"type": "number", "description": "Seconds."},
        }
    ),
    "Login": _object(
        {
            "id": _TEXT,
            "account": _schema("AccountName"),
            "state": {"enum": ["pending", "success", "failed", "expired"]},
            "error": _text("A code where it failed, else empty."),
            "detail": _TEXT,
            "next_step": _TEXT,
            "question": _text("Nothing is replaced before it is confirmed; empty: there is none."),
            "expires_at": _TIME,
            "result": {"anyOf": [_schema("Account"), {"type": "null"}]},
        }
    ),
    "Landed": _object({"address": {"type": "string", "minLength": 1, "maxLength": LONGEST_ADDRESS}}),
    "Landing": _object(
        {"code": _TEXT, "title": _TEXT, "detail": _TEXT, "status": {"type": "integer"}, "return_to": _TEXT}
    ),
    "Status": _object(
        {
            "version": _TEXT,
            "pid": {"type": "integer"},
            "uptime": {"type": "number", "description": "Seconds."},
            "listeners": _TEXTS,
            "config": _TEXT,
            "ready": _FLAG,
            "reasons": _TEXTS,
        },
        more=True,
    ),
    "Reloaded": _object(
        {
            "routes": _COUNT,
            "accounts": _COUNT,
            "restart_needed": _list(_text("A key that only a restart puts in force.")),
        }
    ),
    "Verified": _object(
        {
            "ok": _FLAG,
            "accounts": _COUNT,
            "with_tokens": _COUNT,
            "in_doubt": _COUNT,
            "values": _COUNT,
            "unreadable": _list(_TEXT),
            "damage": _TEXT,
        }
    ),
    "Verdict": _object({"status": {"enum": ["ok", "unavailable"]}, "reasons": _TEXTS}),
    "Problem": _object(
        {
            "code": _text("For programs."),
            "title": _TEXT,
            "status": {"type": "integer", "minimum": 400, "maximum": 599},
            "detail": _text("A sentence."),
            "next_step": _text("What a person should do."),
            "account": _TEXT,
            "reason": _TEXT,
            "retry_after": {"type": "number", "description": "Seconds; also as Retry-After."},
            "exit_code": {"type": "integer", "description": "What the command that asked should exit with."},
            "source": _text("Of config_invalid: the file."),
            "problems": _list(
                _object({"path": _TEXT, "message": _TEXT, "line": {"type": ["integer", "null"]}})
            ),
        },
        needed=["code", "title", "status", "detail", "exit_code"],
    ),
}

_PARAMETERS: Final[Schema] = {
    "account": _path("account", _schema("AccountName"), "An account of the config, or a login under one."),
    "login": _path("login", {"type": "string", "minLength": 1}, "Who knows it can go on with the login."),
    "path": _path("path", _schema("Path"), "Of a value."),
    "table": _path("account", {"type": "string", "minLength": 1}, "An account of the config."),
    "key": _path("key", {"type": "string", "minLength": 1}, "Random, single use."),
}

_WAIT: Final[Schema] = {"Retry-After": {"schema": {"type": "integer", "minimum": 1}}}
_RESPONSES: Final[Schema] = {
    "Account": _answer("The account's state.", _schema("Account")),
    "Login": _answer("The login's state.", _schema("Login")),
    "400": _problem("bad_request: the request makes no sense."),
    "401": _problem(
        "admin_token_required.", headers={"WWW-Authenticate": {"required": True, "schema": _TEXT}}
    ),
    "403": _problem("host_refused, origin_refused: under another name, or by a page of another site."),
    "404": _problem("unknown_account, unknown_login, account_refused, no_state, not_found."),
    "408": _problem("body_timeout: the body took longer than ten seconds."),
    "409": _problem("login_required, misconfigured, needs_no_login: not in the state that it is in."),
    "413": _problem("body_too_large."),
    "415": _problem("content_type_refused."),
    "422": _problem("bad_import, bad_login, bad_state, config_invalid, refused: understood, and not done."),
    "500": _problem("unexpected_error: the log says what."),
    "502": _problem("provider_unavailable.", headers=_WAIT),
    "503": _problem(
        "store_failed, store_locked, store_sealed, store_unavailable, audit_unavailable.", headers=_WAIT
    ),
}

_OF_AN_ACCOUNT: Final = {each: _response(each) for each in ("404", "503")}
_CHANGED: Final = {
    "200": _response("Account"),
    **{each: _response(each) for each in ("404", "409", "422", "502", "503")},
}
_OF_A_PATH: Final = {each: _response(each) for each in ("404", "422", "503")}
_OF_A_LOGIN: Final = {"200": _response("Login"), "404": _response("404"), "503": _response("503")}
_GO_ON: Final = {
    name: {"operationId": operation, "parameters": {"login": "$response.body#/id"}}
    for name, operation in (
        ("status", "getLogin"),
        ("confirm", "confirmLogin"),
        ("paste", "pasteLogin"),
        ("cancel", "cancelLogin"),
    )
}
_PUT: Final = {
    name: {
        "operationId": operation,
        "parameters": {"account": "$request.path.account", "path": "$request.path.path"},
    }
    for name, operation in (("get", "getState"), ("drop", "dropState"))
}

# -- what can be asked -------------------------------------------------------------------------------------------------

_SHARED_PATHS: Final[Schema] = {
    "/api/accounts": {
        "get": _call(
            "listAccounts",
            "Accounts and logins by name",
            {
                "200": _answer("By name.", _object({"accounts": _list(_schema("Account"))})),
                "503": _response("503"),
            },
            query=[
                _query(
                    "limit", {"type": "integer", "minimum": 1}, "At most so many, and 1,000; without it: all."
                ),
                _query("after", _TEXT, "With limit: those behind this name."),
            ],
        )
    },
    "/api/overview": {
        "get": _call(
            "overview",
            "How many are in which state, and those that are not well",
            {"200": _answer("Quick with any number.", _schema("Overview")), "503": _response("503")},
            query=[
                _query(
                    "rows",
                    {"type": "integer", "minimum": 1, "default": 50},
                    "At most so many accounts, and 1,000.",
                )
            ],
        )
    },
    "/api/accounts/{account}": {
        "parameters": [_parameter("account")],
        "get": _call("getAccount", "One account", {"200": _response("Account"), **_OF_AN_ACCOUNT}),
        "delete": _call(
            "logout",
            "Forget the tokens and tell the provider (RFC 7009)",
            {
                "200": _answer(
                    "Its new state, and whether the provider took it; null: it was not told.",
                    {
                        "allOf": [
                            _schema("Account"),
                            _object({"revoked": {"type": ["boolean", "null"]}}, more=True),
                        ]
                    },
                ),
                **_OF_AN_ACCOUNT,
            },
            token=True,
            body=_ANY_JSON,
        ),
    },
    "/api/accounts/{account}/refresh": {
        "parameters": [_parameter("account")],
        "post": _call("refresh", "Renew now, whatever the expiry", _CHANGED, token=True, body=_ANY_JSON),
    },
    "/api/accounts/{account}/tokens": {
        "parameters": [_parameter("account")],
        "post": _call(
            "importTokens",
            "Take tokens that somebody else got, up to 1 MiB",
            _CHANGED,
            token=True,
            body=_body(
                {"type": "object", "description": "The provider's token answer as it came."},
                text_plain={"type": "string", "description": "A bare refresh token."},
            ),
        ),
    },
    "/api/accounts/{account}/rebind": {
        "parameters": [_parameter("account")],
        "post": _call(
            "rebind", "The tokens belong to the config's registration", _CHANGED, token=True, body=_ANY_JSON
        ),
    },
    "/api/accounts/{account}/state": {
        "parameters": [_parameter("account")],
        "get": _call(
            "listState",
            "What an application keeps under this name",
            {"200": _answer("By path.", _object({"state": _list(_schema("StateValue"))})), **_OF_AN_ACCOUNT},
            token=True,
        ),
    },
    "/api/accounts/{account}/state/{path}": {
        "parameters": [_parameter("account"), _parameter("path")],
        "get": _call(
            "getState",
            "One value; a backend value is never given back",
            {"200": _answer("As it was put there.", _schema("StateValue")), **_OF_A_PATH},
            token=True,
        ),
        "put": _call(
            "putState",
            "Put a value there",
            {"200": _answer("Without the value.", _schema("StateValue"), links=_PUT), **_OF_A_PATH},
            token=True,
            body=_body(_schema("NewStateValue")),
        ),
        "delete": _call(
            "dropState",
            "Drop a value",
            {"200": _answer("It is gone.", _object({"path": _schema("Path")})), **_OF_A_PATH},
            token=True,
            body=_ANY_JSON,
        ),
    },
    "/api/logins": {
        "post": _call(
            "beginLogin",
            "Begin a login by a browser or a device",
            {
                "201": _answer(
                    "Begun.",
                    {"oneOf": [_schema("BrowserLogin"), _schema("DeviceLogin")]},
                    headers={"Location": _LOCATION},
                    links=_GO_ON,
                ),
                **{each: _response(each) for each in ("404", "409", "422", "502", "503")},
            },
            token=True,
            body=_body(_schema("NewLogin")),
        )
    },
    "/api/logins/{login}": {
        "parameters": [_parameter("login")],
        "get": _call(
            "getLogin",
            "Its state, at once or as soon as it changes",
            _OF_A_LOGIN,
            token=True,
            query=[
                _query(
                    "wait",
                    {"type": "number", "minimum": 0, "default": 0},
                    "For a change, so many seconds and at most 60.",
                )
            ],
        ),
        "delete": _call("cancelLogin", "Give it up", _OF_A_LOGIN, token=True, body=_ANY_JSON),
    },
    "/api/logins/{login}/confirm": {
        "parameters": [_parameter("login")],
        "post": _call("confirmLogin", "Yes to its question", _OF_A_LOGIN, token=True, body=_ANY_JSON),
    },
    "/api/logins/{login}/paste": {
        "parameters": [_parameter("login")],
        "post": _call(
            "pasteLogin",
            "The landing address, as a person copied it from a browser elsewhere",
            _OF_A_LOGIN | {"422": _response("422")},
            token=True,
            body=_body(_schema("Landed")),
        ),
    },
    "/api/status": {
        "get": _call(
            "status", "Version, addresses, readiness", {"200": _answer("As it is now.", _schema("Status"))}
        )
    },
    "/api/openapi.json": {
        "get": _call(
            "openapi",
            "This document",
            {"200": _answer("As this listener has the API.", {"type": "object"})},
        )
    },
    "/api/reload": {
        "post": _call(
            "reload",
            "Read the config file again",
            {
                "200": _answer("It is in force.", _schema("Reloaded")),
                **{each: _response(each) for each in ("422", "503")},
            },
            token=True,
            body=_ANY_JSON,
        )
    },
    "/api/key/rotate": {
        "post": _call(
            "rotateKeys",
            "Seal every row anew under the first key",
            {
                "200": _answer("Done.", _object({"resealed": _COUNT, "key_id": _TEXT})),
                "422": _response("422"),
                "503": _response("503"),
            },
            token=True,
            body=_ANY_JSON,
        )
    },
    "/healthz": {
        "get": _call(
            "healthz",
            "Whether the process is alive",
            {"200": {"description": "Its event loop turns.", "content": {"text/plain": {"schema": _TEXT}}}},
        )
    },
    "/readyz": _probe("readyz", "Whether requests may be sent here"),
    "/startupz": _probe("startupz", "Whether the start is over"),
    "/metrics": {
        "get": _call(
            "metrics",
            "For Prometheus",
            {
                "200": {
                    "description": "In the format that Accept asks for.",
                    "content": {
                        kind: {"schema": _TEXT} for kind in ("text/plain", "application/openmetrics-text")
                    },
                }
            },
        )
    },
}

_SOCKET_PATHS: Final[Schema] = {
    "/api/logs": {
        "get": _call(
            "logs",
            "The last lines of the log, at once or as soon as there are some",
            {
                "200": _answer(
                    "Each line is the text of a JSON object.",
                    _object({"lines": _list(_TEXT), "next": _COUNT, "missed": _COUNT}),
                )
            },
            query=[
                _query("after", _COUNT, "Lines behind so many: what next of the answer before said."),
                _query("wait", _COUNT, "Seconds to wait where there is none, 60 at most."),
            ],
        )
    },
    "/api/doctor": {
        "post": _call(
            "examine",
            "Look at everything that commonly breaks, as tokenproxy doctor does",
            {
                "200": _answer(
                    "What was found.",
                    _object(
                        {
                            "findings": _list(
                                _object(
                                    {
                                        "level": {"enum": ["good", "warn", "bad"]},
                                        "name": _TEXT,
                                        "sentence": _TEXT,
                                        "remedy": _TEXT,
                                        "code": _text(
                                            "What tokenproxy explain knows; empty where all is well."
                                        ),
                                    }
                                )
                            )
                        }
                    ),
                )
            },
            body=_ANY_JSON,
        )
    },
    "/api/stop": {
        "post": _call(
            "stop",
            "Begin to end, as at SIGTERM",
            {"200": _answer("It has begun to.", _object({"pid": _COUNT, "in_flight": _COUNT}))},
            body=_ANY_JSON,
        )
    },
    "/api/store/backup": {
        "post": _call(
            "backup",
            "Copy the store into a new file",
            {
                "200": _answer("Copied.", _object({"path": _TEXT, "accounts": _COUNT})),
                "422": _response("422"),
                "503": _response("503"),
            },
            body=_body(_object({"path": _text("Absolute.", pattern="^/")})),
        )
    },
    "/api/store/verify": {
        "post": _call(
            "verify",
            "Open every row; nothing is changed",
            {"200": _answer("What was found.", _schema("Verified")), "503": _response("503")},
            body=_ANY_JSON,
        )
    },
}

_BROWSER_PATHS: Final[Schema] = {
    "/login/{login}": {
        "parameters": [_parameter("login")],
        "get": _call(
            "openLogin",
            "Where a browser begins",
            {
                "303": _SEE_OTHER | {"description": "To the provider, with a cookie for this login."},
                "404": _page("There is no such login, or another browser has it.", _PROBLEM),
                "409": _page("The provider refuses our registration."),
                "502": _page("The provider cannot be used."),
                "503": _page("The store cannot be used."),
            },
        ),
    },
    "/callback": _landing("land"),
    "/callback/{account}": _landing("landAtAccount", _parameter("table")),
    "/callback/{account}/{key}": _landing("landAtKey", _parameter("table"), _parameter("key")),
}
